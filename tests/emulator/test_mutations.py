"""Bugs planted into the CUDA kernels, each of which the emulator must see: what a test of them is worth."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from pyprod.kernels import gelu_quantize, int8_attention, int8_gemm_reference, layer_norm_quantize, pack_weight
from tests.emulator.library import ASYNCHRONY, CSRC, Emulator, EmulatorError, compile_library


@dataclass(frozen=True)
class Mutation:
    name: str
    file: str
    old: str
    new: str


MMA, WGMMA, FINISH = "int8_gemm/mma.cu", "int8_gemm/wgmma.cu", "int8_gemm/finish.cuh"
MUTATIONS = [
    Mutation("waits for one group too few", MMA, "cp_async_wait<S::kStages - 2>", "cp_async_wait<S::kStages - 1>"),
    Mutation("no barrier after the wait", MMA, "cuda::sync_block();                     // for all", "// for all"),
    Mutation("loads into the stage that is read", MMA, "shared.stages[next %", "shared.stages[step %"),
    Mutation("sums over stages still read", MMA, "cuda::sync_block();  // the stages become sums", "//"),
    Mutation("sums read before all are there", MMA, "  cuda::sync_block();\n  constexpr int", "constexpr int"),
    Mutation("weights' chunks not exchanged", MMA, "[16 * (chunk ^ row % 8)]", "[16 * chunk]"),
    Mutation("does not wait for the copies", WGMMA, "cuda::barrier_wait(&shared.full[ring.stage], ring.turn);", ""),
    Mutation("copies over a stage in use", WGMMA, "cuda::barrier_wait(&shared.empty[ring.stage], ring.turn ^ 1);", ""),
    Mutation("waits for the wrong phase", WGMMA, "ring.turn ^ 1", "ring.turn"),
    Mutation("expects the weights alone", WGMMA, "sizeof stage.weights + sizeof stage.tokens", "sizeof stage.weights"),
    Mutation("one warp's word for all", WGMMA, "&shared.empty[i], S::kPanels", "&shared.empty[i], 1"),
    Mutation("waits for one warp too many", WGMMA, "&shared.empty[i], S::kPanels", "&shared.empty[i], S::kPanels + 1"),
    Mutation("lets a stage go before wgmma has read it", WGMMA, "  cuda::wgmma_wait<0>();\n", ""),
    Mutation("leaves a wgmma running", WGMMA, "cuda::wgmma_wait<0>();", "cuda::wgmma_wait<1>();"),
    Mutation("steps half as far along k", WGMMA, "(tokens, 32 * k)", "(tokens, 16 * k)"),
    Mutation("reads the compensation as weights", WGMMA, "1 + step * (kDepth / 4)", "step * (kDepth / 4)"),
    Mutation("barriers used before they are there", WGMMA, "_fence();\n  }\n  cuda::sync_block();", "_fence();\n  }"),
    Mutation("adds up before all blocks are done", WGMMA, "    sync_sharers<S>();\n    write", "    write"),
    Mutation("leaves while others read", WGMMA, "    sync_sharers<S>();  // nobody leaves", "    // nobody leaves"),
    Mutation("reads sums before the warp wrote them", WGMMA, "    cuda::sync_warp();\n#pragma", "#pragma"),
    Mutation("writes sums that are still read", WGMMA, "    cuda::sync_warp();  // before", "    // before"),
    Mutation("the two tiles' channels change places", FINISH, "word[2 * tile + part]", "word[2 * part + tile]"),
    Mutation("a token's groups lie where another's do", FINISH, "(group ^ (token / 2 % 4))", "(group & ~1)"),
]  # fmt: skip

ATTEND, PREPARE = "int8_attention/attention.cu", "int8_attention/prepare.cu"
MUTATIONS += [
    Mutation("waits for no tile", ATTEND, "cuda::cp_async_wait<1>();", "cuda::cp_async_wait<2>();"),
    Mutation("another warp's copies not waited for", ATTEND, "wait<1>();\n      cuda::sync_block();", "wait<1>();"),
    Mutation("copies over a tile that is read", ATTEND, "cuda::sync_block();  // the next", "// the next"),
    Mutation("both tiles of keys in one place", ATTEND, "tiles_.keys[step % 2]", "tiles_.keys[0]"),
    Mutation("the first tile in the second's group", ATTEND, "if (step == 0) cuda::cp_async_commit();", ""),
    Mutation("queries read before they are written", ATTEND, "    cuda::sync_warp();\n", ""),
    Mutation("reads chunks where they would be", ATTEND, "chunk_at<kRow>(row, chunk + m", "(chunk + m"),
    Mutation("two lanes agree on a maximum, not four", ATTEND, "lanes *= 2) {", "lanes *= 4) {"),
    Mutation("two lanes' weights are the row's", ATTEND, "lanes *= 2) row.total", "lanes *= 4) row.total"),
    Mutation("weights' tokens change places", ATTEND, "(j % 2 * 2 + i % 2)", "(i % 2 * 2 + j % 2)"),
    Mutation("the low byte is signed, the high not told", ATTEND, "(weight + 128) >> 8", "weight >> 8"),
    Mutation("a token sees the next", ATTEND, "? row.token + 1 : keys", "? row.token + 2 : keys"),
    Mutation("heads read another's keys", ATTEND, "head_ / (a_.heads / a_.kv_heads)", "head_ % a_.kv_heads"),
    Mutation("values in the tokens' order", PREPARE, "return 8 * (2 * half + e / 2) + 2 * t + e % 2;", "return place;"),
    Mutation("means read before all are there", PREPARE, "  cuda::sync_block();\n\n", ""),
]  # fmt: skip

ROW, NORM = "common/cuda/row.cuh", "norm/rows.cu"
MUTATIONS += [
    Mutation("writes over numbers that are read", ROW, "sync_block();  // what an earlier", "// what an earlier"),
    Mutation("reads numbers that are not there", ROW, "] = value;\n  sync_block();", "] = value;"),
    Mutation("joins half a warp", ROW, "int lanes = 16; lanes > 0", "int lanes = 8; lanes > 0"),
    Mutation("joins all warps but the last", ROW, "warp < warps; ++warp", "warp < warps - 1; ++warp"),
    Mutation("a thread's eights are its neighbors'", ROW, "int64_t{h} * threads()", "int64_t{h} * 32"),
    Mutation("leaves out what is not held", ROW, "i = index(kHeld); i", "i = index(kHeld + 1); i"),
    Mutation("counts what is not there", NORM, "kWhole || 8 * i + j < k ? h.of[j] - mean : 0.0f", "h.of[j] - mean"),
    Mutation("the largest may be what is not there", NORM, "if (!kWhole && 8 * i + j >= weight.k) y.of[j] = 0;", ""),
]  # fmt: skip

#: What is compiled anew for a header.
USERS = {FINISH: [MMA, WGMMA], ROW: [NORM, "activation_quantize/rows.cu", "int8_gemm/quantize.cu", ATTEND, PREPARE]}


def gemm_differs(library: Path, major: int) -> bool:
    for m, n, k, processors in [(3, 130, 1100, 16), (40, 70, 700, 3), (140, 300, 700, 1)]:
        a = torch.randint(-128, 128, (m, k), dtype=torch.int8)
        w = torch.randint(-128, 128, (n, k), dtype=torch.int8)
        for seed, asynchrony in enumerate([*ASYNCHRONY, "random", "random"]):
            got = Emulator(library, major, asynchrony, seed, processors).gemm(a, pack_weight(w))
            if not torch.equal(got, int8_gemm_reference(a, w)):
                return True
    return False


def attention_differs(library: Path) -> bool:
    for queries, keys, depth, causal in [(70, 150, 32, False), (130, 130, 64, True), (3, 40, 100, False)]:
        q, k, v = (torch.randn(1, heads, n, depth) for heads, n in ((4, queries), (2, keys), (2, keys)))
        want = int8_attention(q, k, v, None, causal)
        for seed, asynchrony in enumerate([*ASYNCHRONY, "random", "random"]):
            if not torch.equal(Emulator(library, 8, asynchrony, seed).attention(q, k, v, None, causal, None), want):
                return True
    return False


def rows_differ(library: Path) -> bool:
    """Norms by a tolerance, as their sums have another order; activations bit for bit."""
    for k in (9, 300, 1032, 12000):
        x = 5 + torch.randn(3, k)
        _, scale = layer_norm_quantize(x, None, None, 1e-5)
        for seed, asynchrony in enumerate([*ASYNCHRONY, "random", "random"]):
            emulator = Emulator(library, 8, asynchrony, seed)
            got = emulator.norm(x, None, None, None, 1e-5, center=True)[1]
            if not torch.allclose(got, scale, rtol=1e-4, atol=0):
                return True
            if not all(map(torch.equal, emulator.activation("gelu", x), gelu_quantize(x))):
                return True
    return False


def is_seen(library: Path, mutation: Mutation) -> bool:
    try:
        if mutation.file in (ATTEND, PREPARE):
            return attention_differs(library)
        if mutation.file in (ROW, NORM):
            return rows_differ(library)
        return gemm_differs(library, 8 if mutation.file == MMA else 9)
    except EmulatorError:
        return True


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_planted_bug_is_seen(mutation: Mutation, emulator_library: Path, tmp_path: Path) -> None:
    source = (CSRC / mutation.file).read_text()
    assert source.count(mutation.old) == 1, "the kernel has changed: change the mutation with it"
    mutant = tmp_path / "csrc"
    shutil.copytree(CSRC, mutant, ignore=lambda folder, names: [n for n in names if n.endswith(".cpp")])
    shutil.copytree(CSRC / "emulator", mutant / "emulator", dirs_exist_ok=True)
    (mutant / mutation.file).write_text(source.replace(mutation.old, mutation.new))
    library = compile_library(
        tmp_path / "build", mutant, USERS.get(mutation.file, [mutation.file]), emulator_library.parent
    )
    assert is_seen(library, mutation)
