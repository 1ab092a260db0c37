"""Sizes counted from a loaded model equal those of its report and of its files."""

import shutil

import pytest
from conftest import make_model

import lsprism
from lsprism.artifact.manifest import PLAN
from lsprism.evaluation.sizes import measure_sizes
from lsprism.models.load import load
from lsprism.models.source import resolve
from lsprism.records.model_plan import Plan


def measured(folder, dtype="auto"):
    return measure_sizes(load(resolve(str(folder)), "cpu", dtype))


@pytest.mark.parametrize(("method", "shape"), [("wanda", {}), ("hybrid", {"bias": True}), ("svd", {"tied": True})])
def test_an_artifact_has_the_sizes_of_its_report(tmp_path, text_file, method, shape):
    report = lsprism.compress(
        model_id=str(make_model(tmp_path / "model", **shape)),
        save_path=tmp_path / "out",
        method=method,
        sparsity=0.5,
        calibration=dict(source=str(text_file), samples=8, length=32),
    )
    figure = measured(tmp_path / "out")
    plan = Plan.model_validate_json((tmp_path / "out" / PLAN).read_text())
    assert (figure.kept_parameters, figure.model_parameters) == (report.kept_parameters, report.model_parameters)
    assert figure.stored_bytes == report.stored_bytes
    assert figure.resident_bytes == plan.resident_bytes
    assert (
        figure.kept_share == pytest.approx(report.kept_parameters / report.model_parameters) and figure.kept_share < 1
    )


@pytest.mark.parametrize("tied", [False, True])
def test_a_dense_model_keeps_all(tmp_path, tied):
    folder = make_model(tmp_path / "model", tied=tied)
    loaded = load(resolve(str(folder)), "cpu")
    figure = measure_sizes(loaded)
    assert figure.kept_parameters == figure.model_parameters == loaded.model.num_parameters()
    assert figure.stored_bytes == (folder / "model.safetensors").stat().st_size
    computed = sum(buffer.nbytes for buffer in loaded.model.buffers())
    assert figure.resident_bytes == 2 * figure.model_parameters + computed
    assert figure.dtype == "bfloat16"


def test_tied_weights_count_once(tmp_path):
    apart, tied = (measured(make_model(tmp_path / str(tied), tied=tied)) for tied in (False, True))
    assert apart.model_parameters - tied.model_parameters == 24 * 32
    assert apart.resident_bytes - tied.resident_bytes == 24 * 32 * 2


def test_resident_bytes_are_those_of_the_dtype_loaded_and_stored_ones_are_not(tiny_folder):
    short, long = measured(tiny_folder), measured(tiny_folder, "float32")
    assert long.resident_bytes - short.resident_bytes == 2 * short.model_parameters
    assert long.stored_bytes == short.stored_bytes


def test_only_the_files_that_are_loaded_count(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    shutil.copy(folder / "model.safetensors", folder / "consolidated.safetensors")
    assert measured(folder).stored_bytes == measured(tiny_folder).stored_bytes
