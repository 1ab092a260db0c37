"""Block-wise reconstruction: it reduces the error, is deterministic, and can be interrupted."""

import json
from contextlib import closing
from pathlib import Path

import pytest
from conftest import make_model
from tiny_runs import asked, digests, distance, done

from lsprism import api
from lsprism.engine import reconstruct, step_budget
from lsprism.errors import TargetError
from lsprism.events import BlockDone, Progress
from lsprism.specs import CompressSpec

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = {"samples": 64, "length": 32, "method": "wanda"}  # two batches: one for training, one for validation


@pytest.fixture(scope="module", autouse=True)
def brisk():
    """Tiny models with random weights need a higher learning rate."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reconstruct, "RATE", 0.02)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny", blocks=3)


@pytest.fixture(scope="module")
def learnt(model, text_file, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("learnt") / "out"
    done(asked(model, text_file, out, reconstruct_steps=30, **SIZE))
    return out


def stopped_while_learning(spec: CompressSpec, block: int) -> None:
    with closing(api.stream_compress(spec)) as events:
        for event in events:
            if isinstance(event, Progress) and event.step == "learn" and event.block == block:
                return
    raise AssertionError("no block learnt")


@pytest.mark.slow
def test_reconstruction_reduces_the_distance_to_the_dense_model(model, text_file, learnt, tmp_path):
    done(asked(model, text_file, tmp_path / "plain", **SIZE))
    assert distance(model, learnt) < 0.9 * distance(model, tmp_path / "plain")


@pytest.mark.slow
def test_a_run_stopped_within_a_block_ends_with_the_same_bytes(model, text_file, learnt, tmp_path):
    spec = asked(model, text_file, tmp_path / "out", reconstruct_steps=30, **SIZE)
    stopped_while_learning(spec, 2)
    events = done(spec.model_copy(update={"resume": True}))
    assert [event.block for event in events if isinstance(event, BlockDone)] == [2, 3]
    assert digests(tmp_path / "out") == digests(learnt)


def test_values_with_a_higher_loss_are_discarded(model, text_file, tmp_path, monkeypatch):
    done(asked(model, text_file, tmp_path / "plain", **SIZE))
    monkeypatch.setattr(reconstruct, "RATE", 1e6)
    done(asked(model, text_file, tmp_path / "wild", reconstruct_steps=8, **SIZE))
    assert distance(model, tmp_path / "wild") == pytest.approx(distance(model, tmp_path / "plain"), rel=0.01)


@pytest.mark.slow
def test_minutes_become_steps_once_and_the_recipe_keeps_them(model, text_file, learnt, tmp_path, monkeypatch):
    """0.9 s for 3 blocks and 10 ms per step: 30 steps. A resumed run does not measure again."""
    monkeypatch.setattr(step_budget, "_measure_step", lambda try_one: 0.01)
    spec = asked(model, text_file, tmp_path / "out", reconstruct_minutes=0.015, **SIZE)
    stopped_while_learning(spec, 2)
    monkeypatch.setattr(step_budget, "_measure_step", None)
    done(spec.model_copy(update={"resume": True}))
    assert json.loads((tmp_path / "out" / "lsprism" / "recipe.json").read_text())["reconstruct_steps"] == 30
    assert digests(tmp_path / "out") == digests(learnt)
    assert done(spec.model_copy(update={"resume": True}))[-1].report.save_path == tmp_path / "out"
    with pytest.raises(TargetError, match="reconstruct_minutes 0.015, not 1"):
        done(spec.model_copy(update={"resume": True, "reconstruct_minutes": 1.0}))


@pytest.mark.slow
def test_timing_a_step_changes_nothing(model, text_file, learnt, tmp_path, monkeypatch):
    steps = step_budget.StepBudget.resolve_steps

    def timed_first(self, try_one, units=1):
        try_one()
        return steps(self, try_one, units)

    monkeypatch.setattr(step_budget.StepBudget, "resolve_steps", timed_first)
    done(asked(model, text_file, tmp_path / "out", reconstruct_steps=30, **SIZE))
    assert digests(tmp_path / "out") == digests(learnt)


def test_the_memory_estimate_includes_reconstruction(model):
    def memory(**settings):
        return api.inspect(str(model), method="wanda", **settings).memory

    plain, block, whole = memory(), memory(reconstruct_minutes=1), memory(heal_steps=1)
    assert plain.healing == block.healing == 0 < whole.healing
    assert plain.hidden_states * 2 == block.hidden_states == whole.hidden_states
    assert plain.total < min(block.total, whole.total)
