"""Sensitivity: the change of a block's output when a layer's weight is replaced, with equal weight for every token."""

import pytest
import torch
from torch import nn

from lsprism.calibration.blockwise import BlockCall, BlockwiseForward
from lsprism.calibration.output_change import BlockOutputChange

WIDTH = 4
CPU = torch.device("cpu")


class Block(nn.Module):
    """y = x + W x."""

    def __init__(self) -> None:
        super().__init__()
        self.site = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, hidden):
        return hidden + self.site(hidden)


@pytest.fixture
def block() -> Block:
    torch.manual_seed(0)
    return Block()


def walk(*batches: torch.Tensor) -> BlockwiseForward:
    return BlockwiseForward(CPU, hidden=list(batches), calls=[[BlockCall((), {}, None) for _ in batches]])


def harm_of(on: BlockwiseForward, block: nn.Module) -> BlockOutputChange:
    """A measurement with its reference output."""
    harm = BlockOutputChange(on, 0, block)
    harm.set_reference(on.calls[0][0].run(block, on.hidden[0].clone()).detach())
    return harm


def test_the_original_weight_changes_nothing(block):
    assert harm_of(walk(torch.randn(2, 3, WIDTH)), block).measure(block.site, block.site.weight.data.clone()) == 0


def test_it_is_the_mean_over_tokens_of_the_squared_relative_change(block):
    hidden, weight = torch.randn(2, 3, WIDTH), torch.randn(WIDTH, WIDTH)
    wanted, found = hidden + hidden @ block.site.weight.T, hidden + hidden @ weight.T
    expected = ((found - wanted).square().sum(-1) / wanted.square().sum(-1)).mean().item()
    assert harm_of(walk(hidden, torch.randn(2, 3, WIDTH)), block).measure(block.site, weight) == pytest.approx(expected)


def test_a_token_of_huge_scale_has_the_same_weight(block):
    hidden, weight = torch.randn(1, 8, WIDTH), torch.randn(WIDTH, WIDTH)
    huge = hidden * torch.tensor([1e3] + [1.0] * 7).view(1, 8, 1)
    assert harm_of(walk(huge), block).measure(block.site, weight) == pytest.approx(
        harm_of(walk(hidden), block).measure(block.site, weight)
    )


def test_the_block_and_the_walk_are_unchanged(block):
    hidden = torch.randn(2, 3, WIDTH)
    on, own, wanted = walk(hidden.clone()), block.site.weight.data.clone(), block(hidden)
    harm_of(on, block).measure(block.site, torch.zeros(WIDTH, WIDTH))
    assert torch.equal(block.site.weight, own)
    list(on.advance(0, block))
    assert torch.equal(on.hidden[0], wanted)


def test_the_weight_is_restored_if_the_block_fails(block):
    harm, own = harm_of(walk(torch.randn(1, 2, WIDTH)), block), block.site.weight.data.clone()
    with pytest.raises(RuntimeError):
        harm.measure(block.site, torch.zeros(WIDTH, WIDTH + 1))
    assert torch.equal(block.site.weight, own)


def test_overflowing_hidden_states_give_zero(block):
    harm = harm_of(walk(torch.randn(1, 2, WIDTH)), block)
    assert harm.measure(block.site, torch.full((WIDTH, WIDTH), torch.inf)) == 0


class Chain(nn.Module):
    """y = x + B relu(A x), with a wide intermediate layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, 8 * WIDTH, bias=False), nn.Linear(8 * WIDTH, WIDTH, bias=False)

    def forward(self, hidden):
        return hidden + self.second(self.first(hidden).relu())


def test_outputs_of_finished_layers_are_computed_once():
    torch.manual_seed(0)
    block, calls = Chain(), []
    block.first.register_forward_hook(lambda *_: calls.append(1))
    hidden, weight = torch.randn(2, 3, WIDTH), torch.randn(WIDTH, 8 * WIDTH)
    expected = harm_of(walk(hidden.clone()), block).measure(block.second, weight)
    harm = harm_of(walk(hidden.clone()), block)
    harm.mark_done(["first"], ["first", "second"])
    calls.clear()
    assert [harm.measure(block.second, weight) for _ in range(3)] == [expected] * 3
    harm.reset()
    assert "forward" not in block.first.__dict__
