"""Errors during a run: one sentence that names the cause, an unchanged source, and an absent or resumable target."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import scipy.linalg
import torch
from conftest import make_model
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tiny_runs import asked, digests, done, stopped_after

from lsprism.artifact import manifest, shards
from lsprism.calibration.sensitivity_cache import SensitivityCache
from lsprism.engine import prepare
from lsprism.errors import DiskError, NumericError, TargetError, WorkError
from lsprism.methods import METHODS

pytestmark = pytest.mark.usefixtures("one_thread")

BLOCKS = 2
LAYER = "model.layers.1"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny", blocks=BLOCKS)


@pytest.fixture(scope="module")
def whole(model, text_file, tmp_path_factory) -> dict[str, str]:
    """The files of an undisturbed run of wanda."""
    out = tmp_path_factory.mktemp("whole") / "out"
    done(asked(model, text_file, out, method="wanda"))
    return digests(out)


def altered(model: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """A copy of the model, with its tensors changed."""
    shutil.copytree(model, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def assert_fails(error: type[WorkError], match: str, model: Path, text: Path, out: Path, **settings) -> WorkError:
    before = digests(model)
    with pytest.raises(error, match=match) as caught:
        done(asked(model, text, out, **settings))
    assert caught.value.exit_code == 1
    assert caught.value.hint
    assert "\n" not in caught.value.message
    assert digests(model) == before
    assert not out.exists()
    assert not out.with_name("out.lock").exists()
    return caught.value


@pytest.mark.parametrize(
    ("method", "bad"),
    [(method, float("nan")) for method in sorted(METHODS)] + [("hybrid", float("inf")), ("hybrid", float("-inf"))],
)
def test_nan_weights_are_reported_with_their_layer(model, text_file, tmp_path, method, bad):
    name = f"{LAYER}.mlp.up_proj"
    broken = altered(model, tmp_path / "broken", lambda tensors: tensors[f"{name}.weight"].view(-1)[7:8].fill_(bad))
    assert_fails(NumericError, f"^The weight of {name} contains", broken, text_file, tmp_path / "out", method=method)


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"])
def test_nan_weights_outside_the_blocks_are_reported(model, text_file, tmp_path, name):
    broken = altered(model, tmp_path / "broken", lambda tensors: tensors[name].view(-1)[3:4].fill_(float("nan")))
    assert_fails(NumericError, f"^{name} contains NaN", broken, text_file, tmp_path / "out")


@pytest.mark.parametrize("method", sorted(METHODS))
def test_nan_inputs_are_reported_with_their_layer(model, text_file, tmp_path, method):
    norm = f"{LAYER}.input_layernorm.weight"
    broken = altered(model, tmp_path / "broken", lambda tensors: tensors[norm][5:6].fill_(float("nan")))
    site = f"{LAYER}.self_attn.q_proj"
    assert_fails(NumericError, f"^{site} received", broken, text_file, tmp_path / "out", method=method)


def test_overflowing_hidden_states_are_reported(model, text_file, tmp_path):
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{LAYER}.mlp.down_proj.weight"].fill_(6e4)

    large = altered(model, tmp_path / "large", change)
    error = assert_fails(
        NumericError, "NaN or Inf", large, text_file, tmp_path / "out", method="wanda", dtype="float16"
    )
    assert "float32" in error.hint


@pytest.mark.parametrize(
    ("method", "library", "error"),
    [("svd", "torch", torch.linalg.LinAlgError), ("hybrid", "scipy", scipy.linalg.LinAlgError)],
)
def test_a_failed_factorization_is_reported_with_its_layer(
    model, text_file, tmp_path, monkeypatch, method, library, error
):
    monkeypatch.setattr(f"{library}.linalg.eigh", Mock(side_effect=error("eigh: The algorithm failed to converge.")))
    match = "^model.layers.0.self_attn.q_proj cannot be factorized: .*converge[.]"
    assert_fails(NumericError, match, model, text_file, tmp_path / "out", method=method, device="cpu")


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("case", ["dead feature", "all dead", "singular", "fewer tokens than columns"])
def test_poor_statistics_are_not_an_error(model, text_file, tmp_path, method, case):
    def change(tensors: dict[str, torch.Tensor]) -> None:
        norm = tensors[f"{LAYER}.input_layernorm.weight"]
        if case == "dead feature":
            norm[4] = 0
        elif case == "all dead":
            norm.zero_()
        elif case == "singular":  # two features of the MLP that are always equal
            for part in ("gate_proj", "up_proj"):
                tensors[f"{LAYER}.mlp.{part}.weight"][1] = tensors[f"{LAYER}.mlp.{part}.weight"][0]

    few = {"samples": 1, "length": 8} if case == "fewer tokens than columns" else {}
    poor = altered(model, tmp_path / "poor", change)
    report = done(asked(poor, text_file, tmp_path / "out", method=method, **few))[-1].report
    assert all(0 <= layer.error < 1.5 for layer in report.layers)
    for path in (tmp_path / "out").glob("*.safetensors"):
        assert all(t.isfinite().all() for t in load_file(path).values() if t.is_floating_point())


FULL = OSError(errno.ENOSPC, "No space left on device")
RUST_FULL = SafetensorError("I/O error: No space left on device (os error 28)")
# The functions that write files.
WRITERS = [
    ("lsprism.artifact.shards.save_file", shards.save_file, RUST_FULL),
    ("lsprism.artifact.shards.save_file", shards.save_file, FULL),
    ("os.replace", os.replace, FULL),
    ("pathlib.Path.write_text", Path.write_text, FULL),
    ("shutil.copyfile", shutil.copyfile, FULL),
]


class Writer:
    """Wraps a function that writes; raises `error` at call number `fails_at` (from 1; 0: never)."""

    def __init__(self, function: Callable, error: Exception, fails_at: int = 0) -> None:
        self.function, self.error, self.fails_at, self.calls = function, error, fails_at, 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.calls == self.fails_at:
            raise self.error
        return self.function(*args, **kwargs)


@pytest.mark.slow  # one run per write
@pytest.mark.parametrize(("name", "function", "error"), WRITERS)
def test_a_full_disk_at_any_write_is_reported_and_the_run_resumes(
    model, text_file, tmp_path, whole, monkeypatch, name, function, error
):
    def run(spec, writer: Writer) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(name, lambda *args, **kwargs: writer(*args, **kwargs))
            done(spec)

    monkeypatch.setattr(SensitivityCache, "write", lambda *_: None)  # errors of the cache are ignored
    counting = Writer(function, error)
    run(asked(model, text_file, tmp_path / "counted", method="wanda"), counting)
    assert counting.calls >= 3
    for call in range(1, counting.calls + 1):
        out = tmp_path / str(call) / "out"
        spec = asked(model, text_file, out, method="wanda")
        with pytest.raises(DiskError, match="the disk is full[.]") as caught:
            run(spec, Writer(function, error, fails_at=call))
        assert "--resume" in caught.value.hint
        assert not out.exists()
        assert not list(out.parent.rglob("*.tmp")) or name != "lsprism.artifact.shards.save_file"
        done(spec.model_copy(update={"resume": True}))
        assert digests(out) == whole
        manifest.verify(out)
        assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_other_write_errors_are_reported_with_their_cause(model, text_file, tmp_path, monkeypatch):
    monkeypatch.setattr(WRITERS[0][0], Mock(side_effect=OSError(errno.EROFS, "Read-only file system")))
    assert_fails(DiskError, "cannot be written: Read-only file system[.]", model, text_file, tmp_path / "out")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="this system has no mount command")
def test_a_really_full_disk_is_reported_and_the_run_resumes_with_space(
    model, text_file, small_disk, monkeypatch, whole
):
    monkeypatch.setattr(prepare, "check_resources", lambda *_: None)  # would refuse the run before it starts
    ballast = small_disk / "ballast"
    spec = asked(model, text_file, small_disk / "out", method="wanda")
    stopped_after(spec, 1)
    room = shutil.disk_usage(small_disk).free
    ballast.write_bytes(bytes(max(0, room - 8192)))
    again = spec.model_copy(update={"resume": True})
    with pytest.raises(DiskError, match="the disk is full[.]"):
        done(again)
    assert not (small_disk / "out").exists()
    ballast.unlink()
    done(again)
    assert digests(small_disk / "out") == whole


def test_a_target_below_a_file_is_refused_before_anything_starts(model, text_file, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(TargetError, match=f"{tmp_path / 'file'} is a file"):
        done(asked(model, text_file, tmp_path / "file" / "out"))
    assert (tmp_path / "file").read_text() == "mine"


def test_running_out_of_memory_is_reported(model, text_file, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "lsprism.engine.block_compression.compress_layer",
        Mock(side_effect=torch.OutOfMemoryError("CUDA out of memory")),
    )
    error = assert_fails(WorkError, "^Out of memory", model, text_file, tmp_path / "out")
    assert "--resume" in error.hint
