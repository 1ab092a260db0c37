"""A spec becomes words that the command line reads back as the same spec."""

import pytest

from lsprism.cli.options import Parser, add_options, build_spec, collect_options, list_options
from lsprism.runs.argv import format_argv, format_command_line, make_request
from lsprism.specs import CompressSpec, EvaluateSpec, PlanSpec, SweepSpec

SPECS = [
    CompressSpec(model_id="demo", save_path="out"),
    CompressSpec(model_id="-odd name", save_path="a b", sparsity=0.3, method="svd", resume=True, force=True),
    CompressSpec(
        model_id="me/model",
        revision="main",
        save_path="out",
        method="wanda",
        pattern="2:4",
        device="cuda:1",
        dtype="float16",
        calibration={"source": "wikitext2", "column": "text_", "samples": 3, "length": 9, "seed": 7},
    ),
]
MEASURING = [
    EvaluateSpec(model_id="out"),
    EvaluateSpec(
        model_id="out",
        baseline="none",
        save_path="there",
        measuring={"measures": "sizes,kl", "quick": True, "prompt_lengths": "8,16", "dataset": "a.txt"},
    ),
    SweepSpec(model_id="demo", sparsities="0.2,0.4", save_path="study", calibration={"source": "embedded"}),
]


@pytest.mark.parametrize("spec", SPECS + MEASURING)
def test_the_words_say_the_spec(spec):
    known = list_options(type(spec))
    parser = Parser()
    add_options(parser, known)
    assert build_spec(type(spec), collect_options(parser.parse_args(format_argv(spec)), known)) == spec


def test_only_what_differs_from_the_defaults_is_said():
    assert format_argv(PlanSpec(model_id="demo", sparsity=0.5)) == ["--model-id", "demo"]
    assert format_argv(SPECS[0]) == ["--model-id", "demo", "--save-path", "out"]


def test_the_line_can_be_copied_into_a_shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    order = make_request("compress", CompressSpec(model_id="demo", save_path="a b"))
    assert format_command_line(order) == "python -m lsprism compress --model-id demo --save-path 'a b'"
    assert (order.artifact, order.cwd, order.device) == (tmp_path / "a b", tmp_path, "auto")
    assert order.settings["calibration"]["samples"] == 64
