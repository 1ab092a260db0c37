"""The real command line under a keeper, on the tiny model."""

import hashlib
from pathlib import Path

import psutil
import pytest
from conftest import make_model
from fake_runs import until

from lsprism import api
from lsprism.artifact.manifest import verify
from lsprism.events import BlockDone, Finished
from lsprism.runs import RunStore, resume, start, stop
from lsprism.runs.process import is_any_alive
from lsprism.specs import PlanSpec

pytestmark = pytest.mark.slow
BLOCKS = 24  # enough for a run to be stopped in


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("deep") / "deep", blocks=BLOCKS)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    runs = RunStore(tmp_path / "state")
    yield runs
    for run in runs.list_all():
        if run.is_active:
            stop(runs, run.id, 0.5)


@pytest.fixture
def spec(model, text_file) -> PlanSpec:
    text = {"source": str(text_file), "samples": 4, "length": 16}
    return PlanSpec(model_id=str(model), method="hybrid", calibration=text)


def over(runs: RunStore, run_id: str) -> bool:
    return not runs.get(run_id).is_active and not is_any_alive(runs.get(run_id).processes)


def blocks(runs: RunStore, run_id: str) -> list[int]:
    return [moment.event.block for moment in runs.read_events(run_id).moments if isinstance(moment.event, BlockDone)]


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}


def test_a_run_that_was_stopped_goes_on_and_ends_with_the_same_bytes(runs, spec, tmp_path, one_thread):
    api.compress(save_path=tmp_path / "whole", **dict(spec))
    run = start(runs, "compress", spec, token="hf_secret")
    until(lambda: len(blocks(runs, run.id)) > 2, 60)
    stopped = stop(runs, run.id)
    assert (stopped.state, stopped.exit_code) == ("stopped", 130)
    assert not is_any_alive(stopped.processes)
    before = blocks(runs, run.id)
    assert 2 < len(before) < BLOCKS
    resume(runs, run.id)
    until(lambda: over(runs, run.id), 60)
    assert runs.get(run.id).state == "done", runs.log(run.id)
    assert set(blocks(runs, run.id)) == set(range(1, BLOCKS + 1))
    assert isinstance(runs.read_events(run.id).moments[-1].event, Finished)
    verify(runs.get(run.id).artifact)
    assert digests(runs.get(run.id).artifact) == digests(tmp_path / "whole")
    for path in runs.home.rglob("*"):
        assert not path.is_file() or b"hf_secret" not in path.read_bytes()


def test_one_that_the_system_kills_is_a_failed_run_with_its_log(runs, spec):
    run = start(runs, "compress", spec)
    until(lambda: len(blocks(runs, run.id)) > 2, 60)
    psutil.Process(runs.get(run.id).processes[1].pid).kill()
    until(lambda: over(runs, run.id))
    failed = runs.get(run.id)
    assert (failed.state, failed.exit_code) == ("failed", -9)
    assert "ran out of memory" in failed.message
    assert "block" in runs.log(run.id).splitlines()[-1]
    assert failed.is_resumable


def test_what_the_command_refuses_is_a_failed_run_that_says_why(runs, spec):
    short = spec.model_copy(update={"calibration": spec.calibration.model_copy(update={"length": 9999})})
    run = start(runs, "compress", short)
    until(lambda: over(runs, run.id), 60)
    failed = runs.get(run.id)
    assert (failed.state, failed.exit_code) == ("failed", 2)
    assert "too few for one window of 9999" in failed.message
    assert failed.hint
