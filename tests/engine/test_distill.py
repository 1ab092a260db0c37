"""Healing (distillation): it reduces the divergence, and its result is written completely or not at all."""

import os
from contextlib import closing
from pathlib import Path

import pytest
import torch
from conftest import make_model
from tiny_runs import asked, digests, done, stopped_after

from lsprism import api
from lsprism.artifact import staging
from lsprism.calibration.sample import sample_windows
from lsprism.engine import distill as healing
from lsprism.events import Progress, Stage
from lsprism.packed.compute_dtype import apply_compute_dtype
from lsprism.packed.modules import PrismLinear

pytestmark = pytest.mark.usefixtures("one_thread")

BLOCKS = 2
SIZE = {"samples": 16, "length": 32, "method": "wanda"}
STEPS = {"heal_steps": 12}


@pytest.fixture(scope="module", autouse=True)
def brisk():
    """Tiny models with random weights need a higher learning rate."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(healing, "RATE", 0.02)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny", blocks=BLOCKS, tied=True)


@pytest.fixture(scope="module")
def healed(model, text_file, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("healed") / "out"
    events = done(asked(model, text_file, out, **STEPS, **SIZE))
    assert [event.name for event in events if isinstance(event, Stage)][-3:] == ["compress", "heal", "write"]
    return out


def logits(folder: Path) -> torch.Tensor:
    tokens = torch.randint(3, 20, (16, 32), generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        return api.load(str(folder)).model(tokens).logits.float().log_softmax(-1)


def divergence(model: Path, artifact: Path) -> float:
    return torch.nn.functional.kl_div(logits(artifact), logits(model), log_target=True, reduction="sum").item()


@pytest.mark.slow
def test_healing_reduces_the_divergence(model, text_file, healed, tmp_path):
    done(asked(model, text_file, tmp_path / "plain", **SIZE))
    assert divergence(model, healed) < 0.9 * divergence(model, tmp_path / "plain")
    for name, layer in _layers(tmp_path / "plain").items():
        assert torch.equal(layer.bitmap, _layers(healed)[name].bitmap)
    same = {name for name, digest in digests(healed).items() if digest == digests(tmp_path / "plain")[name]}
    assert same == {min(digests(healed))}  # the tensors outside the blocks


def test_the_gradient_is_that_of_the_divergence():
    logits, wanted = torch.randn(2, 3, 7, requires_grad=True), torch.randn(2, 3, 7)
    pair = logits.log_softmax(-1), wanted.log_softmax(-1)
    (torch.nn.functional.kl_div(*pair, log_target=True, reduction="sum") / 6).backward()
    assert torch.allclose(healing.compute_gradient(logits.detach(), wanted), logits.grad, atol=1e-6)


@pytest.mark.parametrize("tied", [False, True])
def test_the_target_is_the_dense_models_logits(text_file, tmp_path, monkeypatch, tied):
    model, seen = make_model(tmp_path / "tiny", blocks=BLOCKS, tied=tied), []
    monkeypatch.setattr(
        healing,
        "compute_gradient",
        lambda found, wanted: seen.append(wanted.cpu().float().log_softmax(-1)) or found * 0,
    )
    spec = asked(model, text_file, tmp_path / "out", heal_steps=1, **SIZE)
    done(spec)
    tokens, _, _ = sample_windows(spec, api.resolve(str(model)))
    loaded = api.load(str(model), device="cpu").model
    with torch.no_grad(), apply_compute_dtype(loaded):
        dense = loaded(tokens).logits.float().log_softmax(-1)
    assert all(any(torch.allclose(wanted[0], own, atol=0.05) for own in dense) for wanted in seen) and seen


@pytest.mark.slow  # several complete runs
@pytest.mark.parametrize("moment", ["learning", "before the first move", "amid the moves"])
def test_a_run_stopped_anywhere_ends_with_the_same_bytes(model, text_file, healed, tmp_path, monkeypatch, moment):
    spec = asked(model, text_file, tmp_path / "out", **STEPS, **SIZE)
    if moment == "learning":
        with closing(api.stream_compress(spec)) as events:
            next(event for event in events if isinstance(event, Progress) and event.step == "heal")
    else:
        moves, real = [], os.replace

        def dying(source, target):
            if Path(source).parent.name == staging.REPLACING:
                moves.append(source)
                if len(moves) > (1 if moment == "amid the moves" else 0):
                    raise KeyboardInterrupt
            real(source, target)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "replace", dying)
            done(spec)
    done(spec.model_copy(update={"resume": True}))
    assert digests(tmp_path / "out") == digests(healed)
    assert not (tmp_path / "out" / staging.REPLACING).exists()


@pytest.mark.slow
def test_a_run_resumed_after_the_blocks_heals_the_written_shards(model, text_file, healed, tmp_path):
    spec = asked(model, text_file, tmp_path / "out", **STEPS, **SIZE)
    stopped_after(spec, BLOCKS)
    done(spec.model_copy(update={"resume": True}))
    assert digests(tmp_path / "out") == digests(healed)


def _layers(artifact: Path) -> dict[str, PrismLinear]:
    return {name: part for name, part in api.load(str(artifact)).model.named_modules() if isinstance(part, PrismLinear)}


@pytest.mark.parametrize("method", ["svd", "hybrid"])
def test_int8_values_are_trained_and_stay_int8(model, text_file, tmp_path, method):
    size = {**SIZE, "method": method, "values": "int8"}
    done(asked(model, text_file, tmp_path / "out", reconstruct_steps=2, heal_steps=2, **size))
    layers = [part for part in api.load(str(tmp_path / "out")).model.modules() if isinstance(part, PrismLinear)]
    assert layers and {part.state_dict()["weight"].dtype for part in layers} == {torch.int8}
    plain = tmp_path / "plain"
    done(asked(model, text_file, plain, **size))
    assert digests(plain) != digests(tmp_path / "out")
