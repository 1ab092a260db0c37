"""Submodules with final weights run once per batch, without changing the result."""

import pytest
import torch
from torch import Tensor, nn

from lsprism.calibration.cached_block import CachedBlock


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.runs = nn.Linear(4, 4), nn.Linear(4, 4), 0

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        self.runs += 1
        return self.second(self.first(x)), None


class Block(nn.Module):
    def __init__(self, times: int = 1) -> None:
        super().__init__()
        self.attention, self.last, self.times = Part(), nn.Linear(4, 4), times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = x + self.attention(x)[0].mul_(0.5)  # in place, as some models do
        return self.last(x)


SITES = ["attention.first", "attention.second", "last"]


def passes(recall: CachedBlock, batches: list[Tensor], times: int) -> list[list[Tensor]]:
    with torch.no_grad():
        return [[recall.run(lambda b, x: b(x), n, x.clone()) for n, x in enumerate(batches)] for _ in range(times)]


@pytest.mark.parametrize("done, runs", [(SITES[:1], 6), (SITES[:2], 2), ([], 6)])
def test_finished_parts_run_once_per_batch(done, runs):
    block, batches = Block(), list(torch.randn(2, 3, 4))
    recall = CachedBlock(block)
    recall.mark_done(done, SITES)
    first, second, third = passes(recall, batches, 3)
    assert block.attention.runs == runs
    for a, b, c, x in zip(first, second, third, batches, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c) and torch.equal(a, block.forward(x.clone()))


def test_weights_of_other_parts_may_change_between_passes():
    block, x = Block(), torch.randn(1, 4)
    recall = CachedBlock(block)
    recall.mark_done(SITES[:2], SITES)
    passes(recall, [x], 1)
    block.last.weight.data.zero_()
    assert torch.equal(passes(recall, [x], 1)[0][0], block.last.bias.expand(1, 4))


def test_a_part_that_is_called_twice_runs_each_time():
    block, x = Block(times=2), torch.randn(3, 4)
    recall = CachedBlock(block)
    recall.mark_done(SITES[:2], SITES)
    first, second = passes(recall, [x], 2)
    assert block.attention.runs == 4 and torch.equal(first[0], second[0])


def test_outputs_larger_than_the_hidden_states_are_not_cached():
    block, x = Block(), torch.randn(3, 4)
    inner = block.attention.forward
    block.attention.forward = lambda x: (inner(x)[0], torch.zeros(100))
    recall = CachedBlock(block)
    recall.mark_done(SITES[:2], SITES)
    passes(recall, [x], 2)
    assert block.attention.runs == 2


def test_forget_restores_the_block():
    block, x = Block(), torch.randn(3, 4)
    recall = CachedBlock(block)
    recall.mark_done(SITES[:2], SITES)
    passes(recall, [x], 2)
    recall.reset()
    assert "forward" not in vars(block.attention)
    block.attention.second.weight.data.zero_()
    block.attention.second.bias.data.zero_()
    assert torch.equal(passes(recall, [x], 1)[0][0], block.last(x))
