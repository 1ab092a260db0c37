"""Error compensation: layers in order of execution, paired with the dense model; its benefit and its bookkeeping."""

from pathlib import Path

import pytest
import torch
from conftest import make_model
from tiny_runs import asked, digests, distance, done, stopped_after

from lsprism import api
from lsprism.calibration.blockwise import capture_block_inputs
from lsprism.calibration.cached_block import CachedBlock
from lsprism.calibration.hooks import capture_input
from lsprism.events import BlockDone
from lsprism.methods.hybrid import Hybrid
from lsprism.methods.stats import InputStats

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = {"samples": 64, "length": 32, "method": "hybrid", "sparsity": 0.3}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny", blocks=3)


@pytest.fixture(scope="module")
def made(model, text_file, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("made") / "out"
    done(asked(model, text_file, out, **SIZE))
    return out


def test_compensation_reduces_the_distance_to_the_dense_model(model, text_file, made, tmp_path, monkeypatch):
    monkeypatch.setattr(Hybrid, "anchor", 0.0)
    done(asked(model, text_file, tmp_path / "out", **SIZE))
    assert distance(model, made) < 0.97 * distance(model, tmp_path / "out")


def test_a_resumed_run_restores_both_streams(model, text_file, made, tmp_path):
    spec = asked(model, text_file, tmp_path / "out", **SIZE)
    stopped_after(spec, 2)
    done(spec.model_copy(update={"resume": True}))
    assert digests(tmp_path / "out") == digests(made)


def test_cached_outputs_change_no_byte(model, text_file, made, tmp_path, monkeypatch):
    monkeypatch.setattr(CachedBlock, "mark_done", lambda *_: None)
    done(asked(model, text_file, tmp_path / "out", **SIZE))
    assert digests(tmp_path / "out") == digests(made)


def test_cached_outputs_are_dropped_with_their_block(model, text_file, tmp_path, monkeypatch):
    made, before = [], CachedBlock.__init__
    monkeypatch.setattr(CachedBlock, "__init__", lambda self, block: (made.append(self), before(self, block))[1])
    for event in api.stream_compress(asked(model, text_file, tmp_path / "out", **SIZE)):
        if isinstance(event, BlockDone):
            assert len(made) == 2 * event.block
            assert not any(recall._answers or recall._parts for recall in made)


@torch.no_grad()
def test_layers_are_grouped_by_input_in_order_of_execution(model):
    loaded = api.load(str(model), device="cpu").model
    walk = capture_block_inputs(loaded, loaded.model.layers, torch.arange(3, 19).repeat(4, 1), torch.device("cpu"))
    block = loaded.model.layers[0]
    sites = {name: part for name, part in block.named_modules() if name.endswith("_proj")}
    assert [[name.partition(".")[2][0] for name in group] for group in walk.find_shared_inputs(0, block, sites)] == [
        ["q", "k", "v"],
        ["o"],
        ["g", "u"],
        ["d"],
    ]
    walk.track_dense()
    walk.hidden = [hidden * 0.5 for hidden in walk.hidden]
    stats = InputStats(32, gram=True, batches=1)
    both = CachedBlock(block), CachedBlock(block)
    list(walk.collect_paired_stats(0, both, "self_attn.o_proj", stats, teach=False))
    assert stats.tokens == 64 and stats.drift.norm() > 0
    before = walk.streams
    list(walk.collect_paired_stats(0, both, "mlp.down_proj", InputStats(48, gram=True, batches=1), teach=True))
    assert torch.equal(walk.dense[0], walk.calls[0][0].run(block, before[1])) and torch.equal(walk.hidden[0], before[0])


def test_the_forward_stops_at_the_measured_layer():
    first, second = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    ran, x = [], torch.ones(2, 4)
    second.register_forward_pre_hook(lambda *_: ran.append("second"))
    seen, answer = capture_input(first, lambda: second(first(x)))
    assert seen is x and answer is None and not ran
    seen, answer = capture_input(first, lambda: second(first(x)), go_on=True)
    assert torch.equal(seen, x) and torch.equal(answer, second(first(x)))
    assert not first._forward_pre_hooks
