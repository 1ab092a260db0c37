"""A resumed run produces the same bytes as an uninterrupted one."""

import json
import os
import random
import subprocess
import sys
import time
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest
from conftest import make_model
from tiny_runs import asked, digests, done, notices, stopped_after

from lsprism import api
from lsprism.errors import DamagedError, TargetError
from lsprism.events import BlockDone, Finished, Progress

pytestmark = pytest.mark.usefixtures("one_thread")

BLOCKS = 6
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny", blocks=BLOCKS)


@pytest.fixture(scope="module")
def whole(model, text_file, tmp_path_factory) -> dict[str, dict[str, str]]:
    """Method -> digests of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    for method in ("wanda", "hybrid"):
        done(asked(model, text_file, folder / method, method=method))
    return {method: digests(folder / method) for method in ("wanda", "hybrid")}


def resumed(spec, **changes):
    return done(spec.model_copy(update={"resume": True, **changes}))


@pytest.mark.parametrize("method", ["wanda", "hybrid"])
def test_a_run_stopped_after_every_block_ends_with_the_same_bytes(model, text_file, tmp_path, whole, method):
    spec = asked(model, text_file, tmp_path / "out", method=method)
    stopped_after(spec, 1)
    spec = spec.model_copy(update={"resume": True})
    for block in range(2, BLOCKS + 1):
        stopped_after(spec, block)
    events = done(spec)
    assert f"Resuming after block {BLOCKS} of {BLOCKS}." in notices(events)
    assert len(events[-1].report.layers) == BLOCKS * 7
    assert digests(tmp_path / "out") == whole[method]


def test_only_missing_blocks_are_compressed(model, text_file, tmp_path):
    spec = asked(model, text_file, tmp_path / "out", method="wanda")
    stopped_after(spec, 4)
    events = resumed(spec)
    assert [event.block for event in events if isinstance(event, BlockDone)] == [5, 6]
    steps = [event for event in events if isinstance(event, Progress)]
    assert steps[0].block == 5
    assert 4 / 6 <= steps[0].fraction < 5 / 6
    assert steps[0].eta_s > 0, "predicted, because no block has been timed since the start"


@pytest.mark.slow
def test_a_run_stopped_at_random_events_ends_with_the_same_bytes(model, text_file, tmp_path, whole):
    spec = asked(model, text_file, tmp_path / "out", method="hybrid", resume=True)  # starts from scratch
    steps, last = random.Random(0), None
    while not isinstance(last, Finished):
        with closing(api.stream_compress(spec)) as events:
            *_, last = islice(events, steps.randint(10, 25))
    assert digests(tmp_path / "out") == whole["hybrid"]


def test_the_time_includes_work_before_the_interruption(model, text_file, tmp_path):
    spec = asked(model, text_file, tmp_path / "out", method="wanda")
    stopped_after(spec, 5)
    path = tmp_path / "out.part" / "stream.safetensors"
    content = path.read_bytes()
    start = content.index(b'"seconds":"') + len(b'"seconds":"')
    end = content.index(b'"', start)
    path.write_bytes(content[:start] + b"1000".ljust(end - start, b"0") + content[end:])
    assert resumed(spec)[-1].report.seconds > 1000


@pytest.mark.parametrize("damage", ["cut", "empty", "no notes", "noise"])
def test_an_unreadable_checkpoint_is_reported_and_the_run_starts_over(model, text_file, tmp_path, whole, damage):
    spec = asked(model, text_file, tmp_path / "out", method="wanda")
    stopped_after(spec, 4)
    path = tmp_path / "out.part" / "stream.safetensors"
    content = path.read_bytes()
    damaged = {
        "cut": content[:-1],
        "empty": b"",
        "no notes": content.replace(b'"next_block"', b'"next_glock"'),
        "noise": bytes(reversed(content)),
    }
    path.write_bytes(damaged[damage])
    events = resumed(spec)
    assert "The checkpoint cannot be read: starting over at the first block." in notices(events)
    assert digests(tmp_path / "out") == whole["wanda"]


@pytest.mark.parametrize("damage", ["missing", "cut", "another's"])
def test_an_incomplete_shard_is_written_again(model, text_file, tmp_path, whole, damage):
    spec = asked(model, text_file, tmp_path / "out", method="wanda")
    stopped_after(spec, 4)
    shards = sorted((tmp_path / "out.part").glob("model-*.safetensors"))
    if damage == "missing":
        shards[1].unlink()
    elif damage == "cut":
        shards[1].write_bytes(shards[1].read_bytes()[:-1])
    else:
        shards[1].write_bytes(shards[0].read_bytes())
    events = resumed(spec)
    assert f"{shards[1].name} is missing or damaged: starting over at the first block." in notices(events)
    assert digests(tmp_path / "out") == whole["wanda"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sparsity": 0.6}, "sparsity 0.5, not 0.6"),
        ({"method": "hybrid"}, "method wanda, not hybrid, allocation uniform, not sensitivity"),
        ({"rank_share": 0.2}, "rank_share 0.1, not 0.2"),
        ({"dtype": "float32"}, "dtype bfloat16, not float32"),
    ],
)
def test_a_different_recipe_is_refused_and_the_setting_named(model, text_file, tmp_path, whole, change, named):
    spec = asked(model, text_file, tmp_path / "out", method="wanda")
    stopped_after(spec, 2)
    with pytest.raises(TargetError, match=f"was started with different settings: {named}[.]"):
        resumed(spec, **change)
    resumed(spec)  # the refusal changed nothing
    assert digests(tmp_path / "out") == whole["wanda"]


@pytest.mark.parametrize(("name", "value"), [("seed", 1), ("samples", 9), ("length", 16)])
def test_a_different_calibration_is_refused_and_named(model, text_file, tmp_path, name, value):
    spec = asked(model, text_file, tmp_path / "out", method="wanda")
    stopped_after(spec, 1)
    before = getattr(spec.calibration, name)
    with pytest.raises(TargetError, match=f"with different settings: {name} {before}, not {value}[.]"):
        done(asked(model, text_file, tmp_path / "out", method="wanda", resume=True, **{name: value}))


def test_a_changed_calibration_text_is_refused_and_named(model, text_file, tmp_path):
    text = tmp_path / "words.txt"
    text.write_text(text_file.read_text())
    spec = asked(model, text, tmp_path / "out", method="wanda")
    stopped_after(spec, 1)
    text.write_text(" ".join(reversed(text_file.read_text().split())))
    with pytest.raises(TargetError, match="was started with different settings: other calibration data[.]"):
        resumed(spec)


def test_an_unfinished_run_requires_resume_or_force(model, text_file, tmp_path, whole):
    spec = asked(model, text_file, tmp_path / "out", method="wanda", sparsity=0.7)
    stopped_after(spec, 3)
    with pytest.raises(TargetError, match="holds an unfinished run") as refused:
        done(spec)
    assert "--resume" in refused.value.hint
    assert "--force" in refused.value.hint
    events = done(asked(model, text_file, tmp_path / "out", method="wanda", force=True))
    assert [e.block for e in events if isinstance(e, BlockDone)] == list(range(1, BLOCKS + 1))
    assert digests(tmp_path / "out") == whole["wanda"]


def test_resume_of_a_finished_artifact_says_so_and_changes_nothing(model, text_file, tmp_path):
    spec = asked(model, text_file, tmp_path / "out", method="wanda")
    report = done(spec)[-1].report
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    events = resumed(spec)
    assert f"{tmp_path / 'out'} is already complete." in notices(events)
    assert not [event for event in events if isinstance(event, BlockDone)]
    assert events[-1] == Finished(report=report)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_resume_of_an_artifact_with_a_different_recipe_is_refused(model, text_file, tmp_path):
    spec = asked(model, text_file, tmp_path / "out", method="wanda")
    done(spec)
    before = digests(tmp_path / "out")
    with pytest.raises(TargetError, match="artifact made with different settings: sparsity 0.5, not 0.4[.]"):
        resumed(spec, sparsity=0.4)
    with pytest.raises(TargetError, match="already holds an artifact[.]"):
        done(spec)
    assert digests(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_resume_of_a_damaged_artifact_is_refused(model, text_file, tmp_path):
    spec = asked(model, text_file, tmp_path / "out", method="wanda")
    done(spec)
    shard = next((tmp_path / "out").glob("model-*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    with pytest.raises(DamagedError, match=shard.name):
        resumed(spec)


def test_a_stopped_forced_run_is_resumed_with_force_and_resume(model, text_file, tmp_path):
    done(asked(model, text_file, tmp_path / "out", method="wanda", sparsity=0.7))
    forced = asked(model, text_file, tmp_path / "out", method="wanda", force=True)
    stopped_after(forced, 4)
    events = resumed(forced)
    assert [e.block for e in events if isinstance(e, BlockDone)] == [5, 6]
    assert events[-1].report.sparsity == 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("blocks", "times", "learning"),
    [(60, 10, {}), (6, 4, {"reconstruct_steps": 20, "heal_steps": 10})],
    ids=["compressing", "learning"],
)
def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(blocks, times, learning, text_file, tmp_path):
    """Kill the real command with SIGKILL repeatedly, then let it finish."""
    model = make_model(tmp_path / "deep", blocks=blocks)
    spec = asked(model, text_file, tmp_path / "whole", method="hybrid", samples=32, length=64, **learning)
    started = time.monotonic()
    done(spec)
    whole_s = time.monotonic() - started
    moments, kills, out = random.Random(0), 0, tmp_path / "out"
    for _ in range(times):
        process = subprocess.Popen(_command(spec, out), cwd=ROOT, env=_environment(), stderr=subprocess.DEVNULL)
        _wait_for_work(process, out)
        try:
            process.wait(moments.uniform(0, whole_s / times))
        except subprocess.TimeoutExpired:
            process.kill()
            kills += process.wait() == -9
        assert not out.exists() or process.returncode == 0
    assert kills >= times - 2, "the runs ended before they could be killed"
    assert subprocess.run(_command(spec, out), cwd=ROOT, env=_environment(), capture_output=True).returncode == 0
    assert digests(out) == digests(tmp_path / "whole")
    assert json.loads((out / "lsprism/report.json").read_text())["layers"][-1]["block"] == blocks - 1


def _command(spec, out: Path) -> list[str]:
    text = spec.calibration
    options = f"--method hybrid --samples {text.samples} --length {text.length} --calibration {text.source} --resume"
    learning = [f"--{name.replace('_', '-')}={getattr(spec, name)}" for name in ("reconstruct_steps", "heal_steps")]
    return [
        sys.executable,
        "-m",
        "lsprism",
        "compress",
        "--model-id",
        spec.model_id,
        "--save-path",
        str(out),
        *options.split(),
        *learning,
    ]


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def _wait_for_work(process: subprocess.Popen, out: Path) -> None:
    """Wait until the process holds its lock; before that it is mostly importing libraries."""
    lock = out.with_name("out.lock")
    lock.unlink(missing_ok=True)  # left by the previous kill
    while process.poll() is None and not lock.exists():
        time.sleep(0.005)
