"""Blocks of a batch: the same bits, taken only where they are faster and where rows don't see each other."""

import time

import pytest
import torch
from torch import nn

from pyprod.backends import _blocks
from pyprod.backends._blocks import Blocks, blocked


class Slow(nn.Module):
    """Doubles, and takes a time of its own."""

    def __init__(self, seconds, shift=0.0):
        super().__init__()
        self.seconds, self.shift = seconds, shift

    def forward(self, x, y):
        time.sleep(self.seconds)
        return 2 * x + y + self.shift


def pair(rows):
    return torch.randn(rows, 3), torch.randn(rows, 3)


def test_blocks_are_the_rows_in_order():
    x, y = pair(12)
    assert torch.equal(Blocks(Slow(0), 4)(x, y), 2 * x + y)


@pytest.mark.parametrize(("whole", "block", "taken"), [(0.02, 0.002, True), (0.002, 0.02, False)])
def test_the_faster_is_taken(whole, block, taken):
    made = []

    def make(example):
        made.append([t.shape for t in example])
        return Slow(block)

    module, notes = blocked(Slow(whole), make, pair(16))
    assert made == [[(8, 3), (8, 3)]]
    assert isinstance(module, Blocks) == taken
    assert notes == (("the batch in blocks of 8",) if taken else ())


@pytest.mark.parametrize("batch", [1, _blocks.ROWS, _blocks.ROWS + 1])
def test_no_blocks_of_what_they_do_not_divide(batch):
    whole = Slow(0)
    assert blocked(whole, lambda _: pytest.fail("made for nothing"), pair(batch)) == (whole, ())


def test_rows_that_see_each_other_stay_together():
    whole = Slow(0.01)
    assert blocked(whole, lambda _: Slow(0, shift=1e-6), pair(16)) == (whole, ())
