"""The linear layer with weights that are not in the near caches: each call takes another copy of them."""

from __future__ import annotations

from pyprod.kernel_suite.problems import _matrix
from pyprod.kernel_suite.problems.linear import OURS, PATTERN, Linear, cost

__all__ = ["BATCHES", "OURS", "PATTERN", "SIZES", "ColdLinear", "build", "cost", "working_set"]

#: BERT-base and Llama-8B-like: preparing each peer dozens of times for every layer would take longer than the rest.
SIZES = (*_matrix.SIZES[:3], *_matrix.SIZES[6:9])
#: Where weights decide; with more rows arithmetic does.
BATCHES = (1, 4, 8, 16)
#: Int8 weights that calls go through before one comes again: a hundred times a second-level cache. A third-level cache
#: of hundreds of megabytes that machines share is exceeded only as far as the neighbors use it too.
MEMORY = 256 << 20
#: Sessions of a runtime cost megabytes each, whatever the weights.
MOST_COPIES = 48


class ColdLinear(Linear):
    """A linear layer of which a peer prepares `copies`."""

    @property
    def copies(self) -> int:
        """How many."""
        return _copies(self.n, self.k)


def build(n: int, k: int) -> ColdLinear:
    """The layer with its weights."""
    return ColdLinear(n, k)


def working_set(m: int, n: int, k: int) -> int:
    """Bytes that calls go through before one comes again: which cache they come from, if from any."""
    return cost(m, n, k).bytes + (_copies(n, k) - 1) * n * k


def _copies(n: int, k: int) -> int:
    return max(2, min(MOST_COPIES, MEMORY // (n * k)))
