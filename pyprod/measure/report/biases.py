"""How each number is taken, and what it can't say. One place: every report and docs/methodology.md quote it."""

from __future__ import annotations

from typing import NamedTuple

from pyprod.measure import statistics


class Point(NamedTuple):
    """One thing a reader of the numbers must know: its name, and one or two sentences."""

    title: str
    text: str


HOW_TAKEN = (
    Point(
        "Latency",
        "Wall time of one call on a batch that is already where the backend reads it, until the result is there. "
        "Each candidate runs in a process of its own with pinned threads and is warmed until steady. All candidates "
        "of a cohort (same workload, device, batch and threads) are timed once in every round, in random order, so "
        "that drift hits all alike. p50, p90 and p99 pool the calls of all rounds.",
    ),
    Point(
        "Speed-up",
        "Baseline latency divided by the form's, from the two medians of each round, so paired in time. Their "
        "logarithms are averaged by a 20% trimmed mean with its 95% t interval (Yuen 1974): one disturbed round does "
        "not move it. With fewer than 3 common rounds there is no interval.",
    ),
    Point(
        "A/A check",
        "In every cohort one candidate is measured twice, each time in its own process. If the ratio of the two is "
        "outside 0.97–1.03, the difference between two forms of that cohort can't be told from the noise: "
        "the whole cohort is marked untrustworthy.",
    ),
    Point(
        "Throughput",
        "Samples (for a language model, tokens) per second of calls made back to back in one stream, median over the "
        "rounds.",
    ),
    Point(
        "Accuracy",
        "The workload's own metric on real data, once per form (workload, recipe, backend, device), valid for its "
        "other batches and thread counts. The difference to the baseline is on the same examples; its 95% interval "
        f"is a paired bootstrap of {statistics.RESAMPLES:,} seeded draws that resamples whole clusters where examples "
        "depend on each other. Where examples are simply right or wrong, discordant pairs and McNemar's exact p are "
        "given too.",
    ),
    Point(
        "Accuracy verdict",
        "Kept: even the worse end of the interval loses at most 1% of the baseline's accuracy (MLPerf's rule). "
        "Lost: even the better end loses more. Undecided: the examples are too few to tell.",
    ),
    Point(
        "Pareto front",
        "Forms that no other form of the cohort beats in median latency, accuracy and size at once. An accuracy "
        "whose difference to the baseline is not resolved (0 is in the interval) counts as equal to the baseline's.",
    ),
    Point(
        "Memory and size",
        "Peak RSS: the most memory resident in the candidate's process while it was timed. PSS divides shared pages "
        "among the processes that use them. Size: the bytes of the files that production would ship. "
        "MB is 10^6 bytes.",
    ),
    Point(
        "Build and first call",
        "Build: lowering the trained model to something callable, compilation included, once, with whatever the "
        "caches of the run already held. First call: the call after that, before any warm-up.",
    ),
)

BIASES = (
    Point(
        "The machine is shared and noisy",
        "Neighbors, frequency and temperature move milliseconds by far more than the differences that matter. "
        "Ratios within a cohort are paired in time and hold; do not compare milliseconds of different runs.",
    ),
    Point(
        "One closed stream, no queue",
        "The next call starts when the last has returned. Latency under load has queueing in it and is worse: "
        "that takes an open-loop load test against a server.",
    ),
    Point(
        "Weights and inputs are hot",
        "Each call repeats the same batch, so weights and inputs are in the caches as far as they fit. "
        "A server that switches models or sleeps between requests starts colder.",
    ),
    Point(
        "One process per candidate",
        "Where a process happens to place its code and buffers can shift it by some percent for its whole life. The "
        "interval sees the rounds of one process, not other processes: only the A/A twin probes this.",
    ),
    Point(
        "The allocator keeps freed memory",
        "glibc's thresholds are fixed in every candidate's process, as servers that link another allocator have it: "
        "left to move, they decide by chance whether a tensor's pages are faulted in again at every call. A process "
        "with glibc's defaults can be slower.",
    ),
    Point(
        "Peak RSS includes the Python and torch runtime",
        "A few hundred MB of it are interpreter and libraries, also for backends that could be deployed without "
        "them. Compare differences, not ratios.",
    ),
    Point(
        "INT8 is not one arithmetic",
        "ONNX Runtime and torch quantize activations per tensor, torchao and the native kernels per token; what "
        "stays in float differs too. Each form's notes say which it is.",
    ),
    Point(
        "The accuracy set is small",
        "It is large enough to find a broken form, not to rank two good ones: read the interval. Where two forms "
        "agree on every example the interval is [0, 0], which says nothing about examples not seen.",
    ),
    Point(
        "Many comparisons",
        "Each interval is at 95% on its own. Among forty of them about two miss the true value.",
    ),
    Point(
        "Tails need many calls",
        "p99 of fewer than 100 calls is close to the slowest call, which on a shared machine is often a neighbor's.",
    ),
    Point(
        "Fixed shapes",
        "Every row of a workload has the same shape. Backends that recompile or pad for dynamic shapes pay for it "
        "in production and not here.",
    ),
)
