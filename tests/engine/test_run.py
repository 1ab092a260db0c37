"""A complete compression of a tiny model: its events, files and target folder."""

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from conftest import make_model
from safetensors.torch import load_file
from tiny_runs import asked, digests, done, stopped_after

from lsprism import api
from lsprism.errors import TargetError
from lsprism.events import BlockDone, Finished, Progress, Stage

pytestmark = pytest.mark.usefixtures("one_thread")

BLOCKS = 3


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny", blocks=BLOCKS)


@pytest.fixture(scope="module")
def made(model, text_file, tmp_path_factory):
    """One finished run: its events, its folder, and the digests of the source before it."""
    out, before = tmp_path_factory.mktemp("made") / "out", digests(model)
    return done(asked(model, text_file, out, method="hybrid")), out, before


def test_events_contain_the_stages_in_order_and_end_with_the_report(made):
    events, out, _ = made
    assert [e.name for e in events if isinstance(e, Stage)] == ["prepare", "measure", "calibrate", "compress", "write"]
    assert isinstance(events[-1], Finished)
    assert events[-1].report.save_path == out


def test_every_block_is_reported_once_in_order_with_all_layers(made):
    blocks = [event for event in made[0] if isinstance(event, BlockDone)]
    assert [(b.block, b.of, len(b.layers)) for b in blocks] == [(n, BLOCKS, 7) for n in (1, 2, 3)]
    assert [layer.block for b in blocks for layer in b.layers] == [n for n in range(BLOCKS) for _ in range(7)]


def test_progress_rises_from_0_to_1_with_time_left_from_the_start(made):
    begins = next(n for n, event in enumerate(made[0]) if isinstance(event, Stage) and event.name == "calibrate")
    for events in (made[0][:begins], made[0][begins:]):  # the sensitivity pass, and the compression
        steps = [event for event in events if isinstance(event, Progress)]
        fractions = [step.fraction for step in steps]
        assert fractions == sorted(fractions)
        assert fractions[0] >= 0
        assert fractions[-1] == pytest.approx(1)
        assert all(step.eta_s is not None for step in steps)


def test_the_report_matches_the_files(made):
    events, out, _ = made
    report = events[-1].report
    assert report.stored_bytes == sum(path.stat().st_size for path in out.glob("*.safetensors"))
    packed = sum(t.nbytes for path in out.glob("*.safetensors") for t in load_file(path).values())
    other = sum(t.nbytes for path in out.glob("*.safetensors") for n, t in load_file(path).items() if "_proj" not in n)
    assert report.layer_stored_bytes == packed - other


def test_the_plan_predicts_the_stored_bytes(made, model, text_file):
    events, out, _ = made
    calibration = {"source": str(text_file), "samples": 8, "length": 32}
    assert (
        api.inspect(str(model), method="hybrid", calibration=calibration).stored_bytes == events[-1].report.stored_bytes
    )


def test_the_source_is_unchanged_and_no_temporary_files_are_left(made, model):
    _, out, before = made
    assert digests(model) == before
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert not (out / "stream.safetensors").exists()
    assert "stream.safetensors" not in json.loads((out / "lsprism/manifest.json").read_text())["files"]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(made, model, text_file, tmp_path):
    _, out, _ = made
    done(asked(model, text_file, tmp_path / "same", method="hybrid"))
    assert digests(tmp_path / "same") == digests(out)
    done(asked(model, text_file, tmp_path / "other", method="hybrid", seed=1))
    assert digests(tmp_path / "other") != digests(out)


def test_parent_folders_of_the_target_are_created(model, text_file, tmp_path):
    done(asked(model, text_file, tmp_path / "a" / "b" / "out", method="wanda"))
    assert (tmp_path / "a" / "b" / "out" / "config.json").is_file()


def test_a_second_run_into_the_target_is_refused_during_the_first(model, text_file, tmp_path):
    spec = asked(model, text_file, tmp_path / "out", method="wanda")
    with closing(api.stream_compress(spec)) as first:
        while not isinstance(next(first), Progress):
            pass
        for second in (spec, spec.model_copy(update={"resume": True}), spec.model_copy(update={"force": True})):
            with pytest.raises(TargetError, match="Another run is writing"):
                done(second)
        assert isinstance(list(first)[-1], Finished)  # the first run is not affected
    assert not (tmp_path / "out.lock").exists()


def test_the_lock_of_a_killed_process_does_not_block(model, text_file, tmp_path):
    holder = (
        "import filelock, sys, time\n"
        "lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True); time.sleep(60)"
    )
    lock = tmp_path / "out.lock"
    process = subprocess.Popen([sys.executable, "-c", holder, lock], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        spec = asked(model, text_file, tmp_path / "out", method="wanda")
        with pytest.raises(TargetError, match="Another run is writing"):
            done(spec)
    finally:
        process.kill()
        process.communicate()
    assert lock.exists()
    assert isinstance(done(spec)[-1], Finished)
    assert not lock.exists()


def test_a_closed_iterator_leaves_an_unfinished_run_and_no_target(model, text_file, tmp_path):
    stopped_after(asked(model, text_file, tmp_path / "out", method="wanda"), 1)
    assert [path.name for path in tmp_path.iterdir()] == ["out.part"]


def test_force_replaces_an_artifact_only_once_the_new_one_is_complete(model, text_file, tmp_path):
    done(asked(model, text_file, tmp_path / "out", method="wanda"))
    old = digests(tmp_path / "out")
    again = asked(model, text_file, tmp_path / "out", method="wanda", sparsity=0.6, force=True)
    stopped_after(again, 2)
    assert digests(tmp_path / "out") == old
    done(again)
    assert digests(tmp_path / "out") != old
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
