"""Cached measurements are found again, only for the same model, text and settings."""

import os
import shutil
from pathlib import Path

import pytest
from conftest import make_model
from safetensors.torch import load_file, save_file

from lsprism.calibration.sensitivity_cache import SensitivityCache, open_sensitivity_cache
from lsprism.records.model_plan import ErrorPoint, LayerSensitivity, ModelSource
from lsprism.specs import CalibrationSpec

TRAITS = [
    LayerSensitivity(name="a", outlier_share=1 / 3),
    LayerSensitivity(name="b", curve=[ErrorPoint(density=0.5, error=0.1)]),
]


@pytest.fixture
def model(tmp_path) -> Path:
    return make_model(tmp_path / "model", blocks=1)


def path_of(folder: Path, settings: dict | None = None, **calibration) -> Path:
    source = ModelSource(model_id="m", kind="folder", folder=folder, base_model="m")
    return open_sensitivity_cache(source, "owl", settings or {}, CalibrationSpec(**calibration)).path


def test_values_are_read_exactly_as_written(tmp_path):
    kept = SensitivityCache(tmp_path / "new" / "traits.json")
    assert kept.read() == []
    kept.write(TRAITS)
    assert kept.read() == TRAITS
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["traits.json"]


@pytest.mark.parametrize("content", [b"", b"[{", b'{"a": 1}', b'[{"name": 5}]', b"\xff"])
def test_a_damaged_file_counts_as_missing(tmp_path, content):
    (tmp_path / "traits.json").write_bytes(content)
    assert SensitivityCache(tmp_path / "traits.json").read() == []


def test_a_cache_that_cannot_be_written_is_ignored(tmp_path):
    (tmp_path / "file").write_text("")
    SensitivityCache(tmp_path / "file" / "traits.json").write(TRAITS)
    SensitivityCache(None).write(TRAITS)
    assert SensitivityCache(None).read() == []


def test_points_are_added_and_those_of_the_same_budget_replaced(tmp_path):
    kept = SensitivityCache(tmp_path / "traits.json")
    for density, error in ((0.5, 0.3), (0.7, 0.1), (0.5, 0.2)):
        kept.add_points([LayerSensitivity(name="a", curve=[ErrorPoint(density=density, error=error)])])
    assert [(p.density, p.error) for p in kept.read()[0].curve] == [(0.5, 0.2), (0.7, 0.1)]


def test_the_name_depends_on_settings_and_text(model, tmp_path):
    text = tmp_path / "a.txt"
    text.write_text("one")
    names = [
        path_of(model),
        path_of(model, {"dtype": "float32"}),
        *(path_of(model, **{name: 9}) for name in ("samples", "length", "seed")),
        path_of(model, source=str(text)),
    ]
    text.write_text("another")
    names.append(path_of(model, source=str(text)))
    assert len(set(names)) == len(names)
    assert path_of(model) == names[0]


def test_the_name_depends_on_the_weights_and_the_config(model, tmp_path):
    before = path_of(model)
    same = shutil.copytree(model, tmp_path / "same")  # preserves modification times
    assert path_of(same) == before, "the folder does not matter"
    weights = same / "model.safetensors"
    stamp = weights.stat()
    tensors = load_file(weights)
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, weights, {"format": "pt"})
    os.utime(weights, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert path_of(same) != before, "detected by the end of the file, with equal size and time"
    other = shutil.copytree(model, tmp_path / "other")
    (other / "config.json").write_text((other / "config.json").read_text() + " ")
    assert path_of(other) != before


def test_a_model_without_weights_has_no_cache_file(model):
    source = ModelSource(model_id="m", kind="hub", folder=model, base_model="m", config_only=True)
    assert open_sensitivity_cache(source, "owl", {}).path is None
    (model / "model.safetensors").unlink()
    assert path_of(model) is None
