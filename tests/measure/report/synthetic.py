"""A seeded record that looks like a real one: two workloads, twelve backends, every kind of failure, A/A twins."""

from __future__ import annotations

import itertools

import numpy as np

from pyprod.types import Candidate, Failure, Measurement

#: backend: (speed-up over eager.fp32, numerics, share of the model's size, noise of its outputs, notes)
BACKENDS = {
    "eager.fp32": (1.0, "float32", 1.0, 0.0, []),
    "eager.bf16": (1.7, "bfloat16", 1.0, 0.01, []),
    "torchscript.frozen": (1.1, "float32", 1.0, 1e-7, []),
    "compile.fp32": (1.25, "float32", 1.0, 1e-7, []),
    "aotinductor.fp32": (1.22, "float32", 1.02, 1e-7, []),
    "onnxruntime.fp32": (1.31, "float32", 1.0, 1e-7, []),
    "onnxruntime.dynamic_int8": (2.45, "int8", 0.26, 0.05, ["activations per tensor", "Gather stays in float32"]),
    "onnxruntime.static_int8": (2.5, "int8", 0.26, 1.5, ["activations per tensor"]),
    "openvino.bf16": (2.4, "bfloat16", 1.0, 0.01, []),
    "openvino.int8": (3.3, "int8", 0.26, 0.02, ["calibrated on 128 rows"]),
    "torchao.int8": (2.2, "int8", 0.65, 0.04, ["activations per token"]),
    "native.int8": (3.1, "int8", 0.65, 0.04, ["activations per token", "embeddings stay in float32"]),
}
#: backend: (failure, workload, batches it hits)
FAILURES = [
    (
        "aotinductor.bf16",
        Failure("unavailable", "build", "no C++ compiler (install g++)"),
        "digits",
        (1, 8, 32),
    ),
    ("aotinductor.fp32", Failure("timeout", "build", "no answer within 300 s"), "digits", (32,)),
    (
        "onnxruntime.cuda_fp16_io_binding",
        Failure("unavailable", "build", "no NVIDIA GPU", ""),
        "encoder",
        (1, 8, 32),
    ),
    (
        "torch_quantized.static_x86",
        Failure(
            "error",
            "build",
            "IndexError: list index out of range in _annotate_linear_unary, at <module 'encoder.layer.0'> of the model",
            'Traceback (most recent call last):\n  File "x.py", line 3, in <module>\n    <b>annotate</b>(model)\n'
            "IndexError: list index out of range",
        ),
        "encoder",
        (1, 8, 32),
    ),
    ("openvino.int8", Failure("mismatch", "check", "relative error 0.41 above 0.05"), "digits", (1, 8, 32)),
    ("onnxruntime.static_int8", Failure("crash", "time", "killed by SIGSEGV"), "digits", (8,)),
    ("compile.fp32", Failure("out_of_memory", "warmup", "killed at the limit of 8.0 GB"), "encoder", (32,)),
]
WORKLOADS = {"encoder": ("sentence", 128, 40e6, 90.9e6), "digits": ("image", None, 0.3e6, 0.31e6)}
ENVIRONMENT = {
    "date": "2026-11-23T20:53:00Z",
    "commit": {"revision": "6220bc2f0c7de5f0b4f3b1a1a9d6f4b1d1d2a3c4", "dirty": False},
    "cpu": {
        "model": "AMD EPYC 9R14",
        "cores": 2,
        "flags": ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "fma"] + [f"flag{i}" for i in range(90)],
        "caches": {"L1d": "32 KiB", "L2": "1 MiB", "L3": "32 MiB"},
        "governor": None,
    },
    "memory": {"total_bytes": 25769803776, "cgroup_limit_bytes": None},
    "gpus": [],
    "driver": None,
    "kernel": "Linux 6.1.0 x86_64",
    "packages": {"python": "3.11.2", "torch": "2.13.0+cpu", "onnxruntime": "1.31.1", "openvino": "2026.4.0"},
}
COMMAND = "pyprod bench encoder digits --batch 1 8 32 --threads 2 --rounds 10 --seed 7"
PLAN = {
    "command": COMMAND.split(),
    "candidates": ["encoder/base/listed.once/cpu/b1/t2"],
    "rounds": 10,
    "seed": 7,
    "min_time_s": 0.2,
    "workloads": ["encoder", "digits"],
    "batches": [1, 8, 32],
}


def record(seed=7, batches=(1, 8, 32), rounds=10, calls=20, documents=30):
    """The measurements, in the order a run would store them."""
    rng = np.random.default_rng(seed)
    out = []
    for workload in WORKLOADS:
        for batch in batches:
            failures = {b: f for b, f, w, hit in FAILURES if w == workload and batch in hit}
            for backend in sorted({*BACKENDS, *failures}):
                candidate = Candidate(workload, backend, batch=batch, threads=2)
                if backend in failures:
                    out.append(Measurement(candidate, "failure", "", (), failure=failures[backend]))
                else:
                    out += _once(candidate, rng, documents, scored=batch == batches[0])
            out += _rounds(workload, batch, [b for b in BACKENDS if b not in failures], rng, rounds, calls)
    return out


def _once(candidate, rng, documents, scored):
    _, numerics, share, noise, notes = BACKENDS[candidate.backend]
    unit, tokens, _, size = WORKLOADS[candidate.workload]
    compiled = candidate.backend.startswith(("compile", "aot"))
    context = {"notes": notes, "unit": unit, "tokens_per_sample": tokens, "numerics": numerics}
    yield Measurement(candidate, "build_time", "s", (float(rng.uniform(20, 60) if compiled else rng.uniform(0.1, 4)),),
                      context=context)  # fmt: skip
    yield Measurement(candidate, "relative_error", "1", (noise / 10,), context={"tolerance": 0.2})
    if scored:
        yield _accuracy(candidate, noise, documents)
    yield Measurement(candidate, "artifact_size", "bytes", (float(round(size * share)),))
    yield Measurement(candidate, "first_call", "s", (float(rng.uniform(0.01, 0.3)),))
    rss = 4e8 + size * share * rng.uniform(1, 3) + 2e6 * candidate.batch
    yield Measurement(candidate, "peak_rss", "bytes", (float(round(rss)),))
    yield Measurement(candidate, "pss", "bytes", (float(round(rss * 0.8)),))


def _accuracy(candidate, noise, documents):
    shared = np.random.default_rng(1)  # every form sees the same examples
    own = np.random.default_rng(sorted(BACKENDS).index(candidate.backend))
    if candidate.workload == "encoder":
        pairs = list(itertools.combinations(range(documents), 2))
        truth = shared.normal(size=len(pairs)).round(2)
        values = truth + shared.normal(size=len(pairs)) + noise * own.normal(size=len(pairs))
        context = {"statistic": "spearman", "truth": truth.tolist(), "cluster": [list(p) for p in pairs]}
        return Measurement(candidate, "accuracy", "spearman", tuple(values.tolist()), context=context)
    margin = shared.normal(1.6, 1.0, size=360) + noise * own.normal(size=360)
    context = {"statistic": "mean", "truth": [], "cluster": []}
    return Measurement(candidate, "accuracy", "mean", tuple((margin > 0).astype(float).tolist()), context=context)


def _rounds(workload, batch, backends, rng, rounds, calls):
    base_ns = WORKLOADS[workload][2] * batch**0.93
    untrusted = workload == "digits" and batch == 32
    for turn in range(rounds):
        drift = rng.lognormal(sigma=0.05)
        for backend, replica in rng.permutation([(b, 0) for b in backends] + [("eager.fp32", 1)]):
            slow = (1.08 if untrusted and int(replica) else 1.0) * drift * rng.lognormal(sigma=0.01)
            if rng.random() < 0.03:
                slow *= rng.uniform(1.2, 2)
            body = base_ns / BACKENDS[backend][0] * slow * rng.lognormal(sigma=0.015, size=calls)
            body *= np.where(rng.random(calls) < 0.04, rng.uniform(1.1, 1.6, calls), 1)
            candidate = Candidate(workload, str(backend), batch=batch, threads=2)
            samples = tuple(body.round().tolist())
            yield Measurement(candidate, "latency", "ns", samples, turn, int(replica))
            rate = batch * calls / (sum(samples) * 1e-9)
            yield Measurement(candidate, "throughput", "samples/s", (rate,), turn, int(replica))
