"""Bugs planted into the CUDA kernels, each of which the emulator must see: what a test of them is worth."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from pyprod.kernels import int8_gemm_reference, pack_weight
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


def fails(library: Path, major: int) -> bool:
    for m, n, k, processors in [(3, 130, 1100, 16), (40, 70, 700, 3), (140, 300, 700, 1)]:
        a = torch.randint(-128, 128, (m, k), dtype=torch.int8)
        w = torch.randint(-128, 128, (n, k), dtype=torch.int8)
        for seed, asynchrony in enumerate([*ASYNCHRONY, "random", "random"]):
            try:
                got = Emulator(library, major, asynchrony, seed, processors).gemm(a, pack_weight(w))
            except EmulatorError:
                return True
            if not torch.equal(got, int8_gemm_reference(a, w)):
                return True
    return False


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_planted_bug_is_seen(mutation: Mutation, emulator_library: Path, tmp_path: Path) -> None:
    source = (CSRC / mutation.file).read_text()
    assert source.count(mutation.old) == 1, "the kernel has changed: change the mutation with it"
    mutant = tmp_path / "csrc"
    shutil.copytree(CSRC, mutant, ignore=lambda folder, names: [n for n in names if n.endswith(".cpp")])
    shutil.copytree(CSRC / "emulator", mutant / "emulator", dirs_exist_ok=True)
    (mutant / mutation.file).write_text(source.replace(mutation.old, mutation.new))
    touched = [mutation.file] if mutation.file.endswith(".cu") else [MMA, WGMMA]
    library = compile_library(tmp_path / "build", mutant, touched, emulator_library.parent)
    assert fails(library, 8 if mutation.file == MMA else 9)
