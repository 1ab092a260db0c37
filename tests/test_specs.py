"""Validation of requests: every error is one sentence with the value."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from lsprism.errors import SpecError
from lsprism.specs import CalibrationSpec, CompressSpec, GenerateSpec, PlanSpec, validate

LEAST = {"model_id": "demo", "save_path": "out"}


def refusal(**fields) -> str:
    with pytest.raises(SpecError) as caught:
        validate(CompressSpec, **{**LEAST, **fields})
    assert caught.value.exit_code == 2
    assert not caught.value.hint and "--help" in caught.value.cli_hint
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("value", [0, 1, -0.1, 1.5, float("nan"), float("inf"), "nan", "abc", "", None, "50%"])
def test_an_invalid_sparsity_is_an_error_with_its_value(value):
    message = refusal(sparsity=value)
    assert message.startswith("--sparsity: ")
    assert repr(value) in message


@pytest.mark.parametrize("value", [0.05, "0.5", 0.999])
def test_a_valid_sparsity_may_be_a_number_or_a_string(value):
    assert validate(CompressSpec, **LEAST, sparsity=value).sparsity == float(value)


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({}, "sensitivity"),
        ({"effort": "best"}, "sensitivity"),
        ({"pattern": "2:4"}, "uniform"),
        ({"method": "sparsegpt"}, "uniform"),
        ({"allocation": "uniform"}, "uniform"),
        ({"allocation": "owl", "method": "wanda"}, "owl"),
    ],
)
def test_auto_chooses_the_allocation(settings, rule):
    assert validate(CompressSpec, **LEAST | settings).rule == rule


@pytest.mark.parametrize(
    ("field", "value", "fits"),
    [
        ("method", "magic", "'wanda'"),
        ("pattern", "3:4", "'2:4'"),
        ("dtype", "int8", "'bfloat16'"),
        ("allocation", "none", "'uniform'"),
        ("device", "gpu", "cuda"),
        ("device", "cuda:", "cuda"),
        ("rank_share", 1, "less than 1"),
    ],
)
def test_an_error_names_the_option_the_value_and_the_limit(field, value, fits):
    message = refusal(**{field: value})
    assert message.startswith(f"--{field.replace('_', '-')}: ")
    assert repr(value) in message
    assert fits in message


@pytest.mark.parametrize(
    ("field", "value"),
    [("samples", 0), ("samples", 10**9), ("length", 7), ("seed", -1), ("seed", 2**63), ("samples", 1.5)],
)
def test_the_calibration_is_validated_too(field, value):
    assert f"--{field}: " in refusal(calibration={field: value})


def test_an_unknown_field_is_named():
    assert "sparsty" in refusal(sparsty=0.5)


def test_a_model_is_required():
    with pytest.raises(SpecError, match="--model-id"):
        validate(PlanSpec)
    with pytest.raises(SpecError, match="--model-id"):
        validate(PlanSpec, model_id="")


@pytest.mark.parametrize(
    ("pattern", "method", "sparsity"), [("2:4", "oats", 0.5), ("4:8", "svd", 0.5), ("2:4", "wanda", 0.4)]
)
def test_a_pattern_requires_a_matching_method_and_sparsity(pattern, method, sparsity):
    message = refusal(pattern=pattern, method=method, sparsity=sparsity)
    assert message.startswith(f"--pattern {pattern} requires --")
    assert (method if sparsity == 0.5 else f"{sparsity:g}") in message


@pytest.mark.parametrize("method", ["wanda", "svd"])
def test_effort_best_requires_hybrid(method):
    assert refusal(effort="best", method=method).startswith("--effort best requires --method hybrid")
    assert validate(PlanSpec, model_id="demo", method=method).effort == "fast"


@pytest.mark.parametrize("pattern", ["2:4", "4:8"])
def test_a_valid_pattern_is_accepted(pattern):
    assert validate(CompressSpec, **LEAST, pattern=pattern, method="wanda", sparsity=0.5).pattern == pattern


def test_a_request_is_immutable_and_survives_json():
    spec = validate(CompressSpec, **LEAST, sparsity=0.3, calibration={"source": "embedded", "seed": 7})
    with pytest.raises(ValidationError):
        spec.sparsity = 0.9
    assert validate(CompressSpec, **json.loads(spec.model_dump_json())) == spec
    assert spec.save_path == Path("out")


@pytest.mark.parametrize("kind", [CalibrationSpec, PlanSpec, CompressSpec, GenerateSpec])
def test_every_field_has_a_description(kind):
    silent = [name for name, field in kind.model_fields.items() if not field.description and name != "calibration"]
    assert silent == []


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", 0), ("top_p", 0), ("top_p", 1.1), ("top_k", -1), ("max_new_tokens", 0), ("repetition_penalty", 0)],
)
def test_invalid_generation_settings_are_errors(field, value):
    with pytest.raises(SpecError, match=f"--{field.replace('_', '-')}: .*got {value}"):
        validate(GenerateSpec, **{field: value})


def test_a_request_with_a_path_is_read_back_from_its_json():
    spec = validate(CompressSpec, model_id="demo", save_path="~/out")
    assert CompressSpec.model_validate_json(spec.model_dump_json()) == spec
    assert spec.save_path == Path.home() / "out"
