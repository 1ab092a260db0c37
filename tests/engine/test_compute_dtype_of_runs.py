"""The compute dtype affects the result: it is part of the recipe, and a resumed run keeps it."""

import json
from pathlib import Path

import pytest
import torch
from conftest import make_model
from tiny_runs import asked, digests, done, notices, stopped_after

from lsprism import api
from lsprism.artifact.manifest import RECIPE
from lsprism.errors import TargetError
from lsprism.packed import compute_dtype

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny", blocks=3, dtype=torch.bfloat16)


@pytest.fixture(autouse=True)
def slow_bfloat16(monkeypatch):
    """Simulate a CPU without bfloat16 instructions."""
    rates = {torch.bfloat16: 1e9, torch.float16: 1e9, torch.float32: 9e9}
    monkeypatch.setattr(compute_dtype, "measure_rates", lambda storage: rates)


def recipe_of(folder: Path) -> dict:
    return json.loads((folder / RECIPE).read_text())


def test_auto_is_resolved_in_the_recipe_and_decides_the_bytes(model, text_file, tmp_path):
    done(asked(model, text_file, tmp_path / "auto"))
    done(asked(model, text_file, tmp_path / "float32", compute_dtype="float32"))
    done(asked(model, text_file, tmp_path / "bfloat16", compute_dtype="bfloat16"))
    names = {name: recipe_of(tmp_path / name)["compute_dtype"] for name in ("auto", "float32", "bfloat16")}
    assert names == {"auto": "float32", "float32": "float32", "bfloat16": "bfloat16"}
    found = {name: digests(tmp_path / name) for name in names}
    assert found["auto"] == found["float32"] != found["bfloat16"]
    dtypes = {tensor.dtype for tensor in api.load(tmp_path / "auto", device="cpu").model.parameters()}
    assert dtypes == {torch.bfloat16}


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "before it was recorded"])
def test_a_run_resumed_on_another_machine_keeps_its_dtype(model, text_file, tmp_path, recorded):
    done(asked(model, text_file, tmp_path / "whole", compute_dtype="bfloat16"))
    stopped_after(asked(model, text_file, tmp_path / "out", compute_dtype="bfloat16"), 1)
    if not recorded:
        path = tmp_path / "out.part" / RECIPE
        recipe = json.loads(path.read_text())
        del recipe["compute_dtype"]
        path.write_text(json.dumps(recipe))
    events = done(asked(model, text_file, tmp_path / "out", resume=True))
    assert any("computed in bfloat16" in text and "float32 is faster" in text for text in notices(events))
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_another_dtype_on_resume_is_refused(model, text_file, tmp_path):
    stopped_after(asked(model, text_file, tmp_path / "out"), 1)
    with pytest.raises(TargetError, match="compute_dtype float32, not bfloat16"):
        done(asked(model, text_file, tmp_path / "out", resume=True, compute_dtype="bfloat16"))


@pytest.mark.parametrize("settings", [{"reconstruct_steps": 2}, {"heal_steps": 2}], ids=["reconstruct", "heal"])
def test_training_uses_the_compute_dtype(model, text_file, tmp_path, settings):
    found = []
    for name in ("float32", "bfloat16"):
        done(asked(model, text_file, tmp_path / name, compute_dtype=name, **settings))
        found.append(digests(tmp_path / name))
    assert found[0].keys() == found[1].keys() and found[0] != found[1]
