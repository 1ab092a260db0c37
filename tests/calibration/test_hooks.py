"""Hooks collect layer inputs inside the `with`; layers with the same input share their statistics."""

import pytest
import torch
from torch import nn

from lsprism.calibration.hooks import make_unreached_stats, track_input_stats
from lsprism.methods.stats import SAMPLE_TOKENS

WIDTH = 6


class Attention(nn.Module):
    """Two projections of the same tensor, and a third one of their result."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x):
        return self.o(self.q(x) * self.k(x))


@pytest.fixture
def block() -> Attention:
    return Attention()


def sites(block) -> dict[str, nn.Module]:
    return dict(block.named_children())


@torch.no_grad()
def test_layers_with_the_same_input_share_statistics(block):
    stats, batches = {}, torch.randn(3, 2, 5, WIDTH)
    with track_input_stats(sites(block), stats, gram=True, batches=3) as watch:
        for x in batches:
            block(x)
            watch.release_inputs()
    assert stats["q"] is stats["k"] and stats["o"] is not stats["q"]
    x = batches.reshape(-1, WIDTH)
    assert stats["q"].tokens == len(x) == 30
    torch.testing.assert_close(stats["q"].gram, x.T @ x)
    inner = block.q(x) * block.k(x)
    torch.testing.assert_close(stats["o"].norms, inner.norm(dim=0))


@torch.no_grad()
def test_a_tensor_modified_in_place_is_a_different_input(block):
    stats, x = {}, torch.ones(4, WIDTH)
    with track_input_stats(sites(block), stats, gram=True, batches=1):
        block.q(x)
        block.k(x.mul_(2))
    assert stats["k"] is not stats["q"]
    torch.testing.assert_close(stats["k"].norms, 2 * stats["q"].norms)


@torch.no_grad()
def test_inputs_may_be_passed_by_keyword(block):
    stats, x = {}, torch.randn(3, WIDTH)
    with track_input_stats(sites(block), stats, gram=False, batches=1):
        block.q(input=x)
    torch.testing.assert_close(stats["q"].norms, x.norm(dim=0))
    assert stats["q"].gram is None


@torch.no_grad()
def test_hooks_are_removed_even_after_an_error(block):
    stats = {}
    with pytest.raises(ZeroDivisionError), track_input_stats(sites(block), stats, gram=False, batches=1):
        raise ZeroDivisionError
    block(torch.ones(1, WIDTH))
    assert not stats and not any(module._forward_pre_hooks for module in block.modules())


@torch.no_grad()
def test_no_reference_to_a_batch_is_kept_after_forget(block):
    import weakref

    stats, x = {}, torch.randn(2, WIDTH)
    with track_input_stats(sites(block), stats, gram=False, batches=1) as watch:
        block.q(x)
        watch.release_inputs()
        alive = weakref.ref(x)
        del x
        assert alive() is None


def test_unreached_layers_are_measured_by_their_weights():
    layer = nn.Linear(700, 3)
    stats = make_unreached_stats(layer, gram=True)
    assert stats.tokens == 0
    assert torch.equal(stats.gram, torch.eye(700)) and torch.equal(stats.norms, torch.ones(700))
    assert stats.sample.shape == (SAMPLE_TOKENS, 700) and stats.sample.dtype == layer.weight.dtype
    assert make_unreached_stats(layer, gram=False).gram is None
