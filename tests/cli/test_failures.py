"""What fails while working: exit code 1, one sentence that names it and a hint, and nothing on standard output."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from lsprism import api
from lsprism.cli import main

pytestmark = pytest.mark.usefixtures("one_thread")

WEIGHTS = "model.safetensors"
SITE = "model.layers.1.mlp.up_proj"


@pytest.fixture(scope="module")
def artifact(tiny_folder, text_file, tmp_path_factory) -> Path:
    calibration = {"source": str(text_file), "length": 32}
    out = tmp_path_factory.mktemp("made") / "out"
    return api.compress(tiny_folder, out, method="wanda", calibration=calibration).save_path


@pytest.fixture
def failed(text_file, tmp_path, capsys) -> Callable[..., str]:
    """Run a verb that fails on a model; returns what it said."""

    def run(verb: str, model: Path, *words: str, code: int = 2) -> str:
        before = {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}
        text = (
            ["--calibration", text_file, "--samples", 4, "--length", 16] if verb in ("compress", "check-stats") else []
        )
        target = ["--save-path", tmp_path / "out"] if verb in ("compress", "export") else []
        found = main([verb, "--model-id", str(model), *map(str, [*text, *target, *words])])
        said = capsys.readouterr()
        lines = said.err.strip().splitlines()
        sentence = next(line for line in lines if line.startswith("error "))
        assert found == code, said.err
        assert said.out.strip() == "" and sentence.endswith(".") and len(lines[-1]) > 10 and lines[-2] == sentence
        assert not (tmp_path / "out").exists()
        assert {path: path.read_bytes() for path in model.rglob("*") if path.is_file()} == before
        return sentence

    return run


def spoilt(folder: Path, copy: Path, damage: Callable[[Path], object]) -> Path:
    shutil.copytree(folder, copy)
    damage(copy)
    return copy


def broken_weight(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors[f"{SITE}.weight"][0, 0] = float("nan")
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def in_two(folder: Path, lost: bool) -> None:
    """The weights in two shards, the second of which cannot be read, or is gone after the folder was looked at."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    parts = {"a.safetensors": {}, "b.safetensors": {}}
    for name, tensor in tensors.items():
        parts["b.safetensors" if "layers.1" in name else "a.safetensors"][name] = tensor
    for file, part in parts.items():
        save_file(part, folder / file, {"format": "pt"})
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    if not lost:
        (folder / "b.safetensors").write_bytes(b"\xff" * 4096)


def cut(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


DAMAGES = {
    "truncated": (cut, WEIGHTS),
    "empty": (lambda folder: (folder / WEIGHTS).write_bytes(b""), WEIGHTS),
    "corrupt": (lambda folder: (folder / WEIGHTS).write_bytes(b"\xff" * 5000), WEIGHTS),
    "unreadable shard": (lambda folder: in_two(folder, lost=False), "b.safetensors"),
}


@pytest.mark.parametrize("verb", ["compress", "check-stats", "export", "generate"])
@pytest.mark.parametrize(("damage", "named"), DAMAGES.values(), ids=DAMAGES)
def test_weights_that_cannot_be_read_are_named_by_their_file(failed, tiny_folder, tmp_path, damage, named, verb):
    model = spoilt(tiny_folder, tmp_path / "model", damage)
    words = ("--prompt", "the river") if verb == "generate" else ()
    assert f"{model / named} cannot be read" in failed(verb, model, *words)


def test_a_shard_that_the_disk_refuses_is_named(failed, tiny_folder, tmp_path, monkeypatch):
    model = spoilt(tiny_folder, tmp_path / "model", lambda folder: in_two(folder, lost=True))
    from lsprism.models import tensor_files

    def refusing(path, *args, **kwargs):
        if Path(path).name == "b.safetensors":
            raise OSError(errno.EIO, "Input/output error")
        return stored_open(path, *args, **kwargs)

    stored_open = tensor_files.safe_open
    monkeypatch.setattr(tensor_files, "safe_open", refusing)
    assert f"{model / 'b.safetensors'} cannot be read: " in failed("compress", model)


def test_weights_for_another_config_are_told_before_the_first_block(failed, tiny_folder, tmp_path):
    def deeper(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3, "layer_types": None}))

    model = spoilt(tiny_folder, tmp_path / "model", deeper)
    assert "have no tensor for model.layers.2." in failed("compress", model)
    assert not list((tmp_path / "out.part").glob("*.safetensors"))


@pytest.mark.parametrize(
    "words", [("compress",), ("compress", "--method", "wanda", "--calibration", "self"), ("check-stats",)]
)
def test_a_site_with_broken_weights_is_named(failed, tiny_folder, tmp_path, words):
    model = spoilt(tiny_folder, tmp_path / "model", broken_weight)
    assert f"error The weight of {SITE} contains NaN or Inf." == failed(words[0], model, *words[1:], code=1)


def test_a_full_disk_is_told(failed, tiny_folder, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lsprism.artifact.shards.save_file", full)
    for verb in ("compress", "export"):
        assert failed(verb, tiny_folder, code=1).endswith("cannot be written: the disk is full.")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def newer(path: Path) -> None:
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))


SPOILT = {
    "one flipped byte": ("model-00002-of-00003.safetensors", flip, "was altered"),
    "an edited config": (
        "config.json",
        lambda path: path.write_text(path.read_text().replace("silu", "gelu")),
        "altered",
    ),
    "a newer format": ("lsprism/manifest.json", newer, "format 2 is newer than format 1"),
    "no manifest": ("lsprism/manifest.json", Path.unlink, "is missing"),
    "a file that is gone": ("lsprism/report.json", Path.unlink, "is missing"),
}


@pytest.mark.parametrize("verb", ["generate", "export"])
@pytest.mark.parametrize(("name", "damage", "said"), SPOILT.values(), ids=SPOILT)
def test_an_artifact_that_is_not_whole_is_refused_with_the_name_of_the_file(
    failed, artifact, tmp_path, verb, name, damage, said
):
    model = spoilt(artifact, tmp_path / "spoilt", lambda folder: damage(folder / name))
    sentence = failed(verb, model, *(("--prompt", "the river") if verb == "generate" else ()))
    assert str(model / name) in sentence and said in sentence


def test_an_artifact_that_lacks_a_shard_names_it(artifact, tmp_path, capsys):
    shard = "model-00002-of-00003.safetensors"
    model = spoilt(artifact, tmp_path / "spoilt", lambda folder: (folder / shard).unlink())
    assert main(["generate", "--model-id", str(model), "--prompt", "the river"]) == 2  # refused before it is loaded
    assert f"lacks the file {shard}." in capsys.readouterr().err
