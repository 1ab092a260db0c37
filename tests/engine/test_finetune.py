"""Trainable layers equal the compressed layers and are packed again afterwards: same mask, format and dtype."""

import pytest
import torch
from torch import nn

from lsprism.engine.finetune import Adam, TrainableLayer, compute_rate_factor, make_trainable
from lsprism.packed.formats import LowRank, Sparse, SparseLowRank
from lsprism.packed.modules import PrismLinear

pytestmark = pytest.mark.usefixtures("one_thread")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def form_of(kind: str) -> Sparse | LowRank | SparseLowRank:
    sparse, factors = Sparse.pack(random(6, 10), random(6, 10, seed=1) > 0), LowRank(random(6, 2), random(2, 10))
    return {"sparse": sparse, "low_rank": factors, "sparse_low_rank": SparseLowRank(sparse, factors)}[kind]


every_form = pytest.mark.parametrize("kind", ["sparse", "low_rank", "sparse_low_rank"])


@every_form
def test_a_trainable_layer_packs_to_the_same_weight(kind):
    form, bias, x = form_of(kind), nn.Parameter(random(6, seed=3), requires_grad=False), random(4, 10, seed=4)
    learner = TrainableLayer(form, bias)
    assert torch.equal(learner.weight.to(torch.bfloat16), form.to_dense())
    assert torch.allclose(learner(x), nn.functional.linear(x, form.to_dense(), bias))
    back = learner.to_packed()
    assert all(torch.equal(tensor, back.get_tensors()[name]) for name, tensor in form.get_tensors().items())


@every_form
def test_training_changes_kept_values_but_no_zeros(kind):
    form = form_of(kind)
    root = nn.ModuleDict({"layer": PrismLinear(form), "left alone": nn.Linear(10, 6)})
    wanted, x = random(32, 6, seed=5).float(), random(32, 10, seed=6)
    losses = []
    with make_trainable(root) as values:
        assert len(values) == {"sparse": 1, "low_rank": 2, "sparse_low_rank": 3}[kind]
        adam = Adam(values, rate=0.02, steps=30)
        for _ in range(30):
            loss = (root["layer"](x).float() - wanted).square().mean()
            loss.backward()
            adam.step()
            losses.append(loss.item())
    learnt = root["layer"].form
    assert losses[-1] < 0.9 * losses[0]
    assert type(learnt) is type(form) and (learnt.kept, learnt.rank) == (form.kept, form.rank)
    assert {t.dtype for t in learnt.get_tensors().values()} == {t.dtype for t in form.get_tensors().values()}
    if kind != "low_rank":
        assert torch.equal(learnt.get_tensors()["bitmap"], form.get_tensors()["bitmap"])
    assert not any(parameter.requires_grad for parameter in root["layer"].parameters())


def test_without_a_rate_nothing_changes():
    form, x = form_of("sparse_low_rank"), random(8, 10)
    root = nn.ModuleDict({"layer": PrismLinear(form)})
    with make_trainable(root) as values:
        adam = Adam(values, rate=0, steps=1)
        root["layer"](x).float().square().mean().backward()
        adam.step()
    assert all(
        torch.equal(tensor, root["layer"].form.get_tensors()[name]) for name, tensor in form.get_tensors().items()
    )


def test_layers_are_restored_when_training_is_interrupted():
    root = nn.ModuleDict({"layer": PrismLinear(form_of("sparse"))})
    with pytest.raises(KeyboardInterrupt), make_trainable(root):
        raise KeyboardInterrupt
    assert isinstance(root["layer"], PrismLinear)


@pytest.mark.parametrize("steps", [1, 2, 9, 100])
def test_the_rate_rises_then_falls_and_stays_positive(steps):
    shares = [compute_rate_factor(step, steps) for step in range(steps)]
    top = shares.index(max(shares))
    assert max(shares) == 1 and min(shares) > 0 and top <= steps / 10
    assert shares[: top + 1] == sorted(shares[: top + 1]) and shares[top:] == sorted(shares[top:], reverse=True)
