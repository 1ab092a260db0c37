"""The form as words: whatever it says, the command, the YAML and the request say the same."""

import pytest
import yaml

from lsprism.errors import SpecError
from lsprism.runs import RunStore
from lsprism.runs.yaml_options import read_options
from lsprism.specs import CompressSpec, PlanSpec
from lsprism.ui import form_values
from lsprism.ui.texts import compress as texts

VALUES = {
    "model_id": " demo ", "sparsity": 0.3, "method": "hybrid", "pattern": "unstructured", "rank_share": 0.2,
    "source": "embedded", "allocation": "uniform", "samples": 8, "length": 64, "seed": 3,
    "device": "cpu", "dtype": "auto", "save_path": "",
}  # fmt: skip


def test_the_form_becomes_a_request():
    spec = form_values.make_spec(VALUES)
    assert type(spec) is PlanSpec
    assert (spec.model_id, spec.sparsity, spec.rank_share, spec.calibration.samples) == ("demo", 0.3, 0.2, 8)


def test_a_named_folder_is_where_the_result_goes(tmp_path):
    spec = form_values.make_spec({**VALUES, "save_path": f" {tmp_path / 'out'} "})
    assert isinstance(spec, CompressSpec) and spec.save_path == tmp_path / "out"


def test_a_pattern_belongs_to_the_methods_that_know_it():
    values = {**VALUES, "pattern": "2:4", "sparsity": 0.5}
    assert form_values.make_spec({**values, "method": "svd"}).pattern == "unstructured"
    for method in ("wanda", "hybrid"):  # nor does the latter have factors then
        spec = form_values.make_spec({**values, "method": method})
        assert spec.pattern == "2:4" and spec.rank_share == PlanSpec(model_id="demo").rank_share
    with pytest.raises(SpecError, match="0.3"):
        form_values.make_spec({**values, "method": "wanda", "sparsity": 0.3})


@pytest.mark.parametrize(
    ("wrong", "named"), [({"model_id": "  "}, "model"), ({"sparsity": 1.0}, "sparsity"), ({"samples": 0}, "samples")]
)
def test_what_is_wrong_is_named(wrong, named):
    with pytest.raises(SpecError, match=named):
        form_values.make_spec({**VALUES, **wrong})


@pytest.mark.parametrize("method", list(form_values.METHODS))
def test_yaml_brings_the_same_request_back(method):
    spec = form_values.make_spec({**VALUES, "method": method, "sparsity": 0.5, "save_path": "out"})
    assert form_values.make_spec(form_values.parse_yaml(form_values.format_yaml(spec))) == spec


def test_yaml_may_say_less_and_nest_the_calibration():
    values = form_values.parse_yaml("model-path: demo\ncalibration:\n  samples: 5\npattern: 2:4\nmethod: wanda\n")
    assert (values["model_id"], values["samples"], values["pattern"], values["save_path"]) == ("demo", 5, "2:4", "")


def test_a_file_for_the_command_line_is_one_for_the_form_and_back(tmp_path):
    from lsprism.cli.options import list_options

    path = tmp_path / "run.yaml"
    path.write_text(
        form_values.format_yaml(form_values.make_spec({**VALUES, "method": "wanda", "pattern": "2:4", "sparsity": 0.5}))
    )
    said = read_options(path, [option.name for option in list_options(CompressSpec)], "It")
    assert said["sparsity"] == "0.5" and said["pattern"] == "2:4" and said["calibration"] == "embedded"


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("pattern: 2:4\nmethod: wanda\n", "pattern", "2:4"),
        ("pattern: '2:4'\nmethod: wanda\n", "pattern", "2:4"),
        ("revision: 1e3\n", "revision", "1e3"),
        ("revision: 12:30\n", "revision", "12:30"),
        ("revision: 2020-01-01\n", "revision", "2020-01-01"),
        ("column: yes\n", "column", "yes"),
        ("column: 007\n", "column", "007"),
        ("seed: ~\n", "seed", 0),
        ("seed: 12\n", "seed", 12),
        ("sparsity: .4\n", "sparsity", 0.4),
        ("rank-share: 2e-1\n", "rank_share", 0.2),
        ("source: words.txt\n", "source", "words.txt"),
        ("calibration: words.txt\n", "source", "words.txt"),
        ("calibration: {source: words.txt}\n", "source", "words.txt"),
    ],
)
def test_the_page_and_the_command_line_read_yaml_alike(tmp_path, text, field, value):
    from lsprism.cli.main import _build_parser
    from lsprism.cli.options import build_spec, collect_options, list_options

    path = tmp_path / "run.yaml"
    path.write_text(f"model-id: demo\nsave-path: {tmp_path}\n{text}", encoding="utf-8-sig")
    values = form_values.parse_yaml(path.read_text(encoding="utf-8-sig"))
    options = _build_parser().parse_args(["compress", "--config", str(path)])
    assert values[field] == value
    assert form_values.make_spec(values) == build_spec(
        CompressSpec, collect_options(options, list_options(CompressSpec))
    )


@pytest.mark.parametrize(
    "text", ["pattern: 2:4\nmethod: svd\n", "effort: best\nmethod: wanda\n", "color: red\n", "sparsity: [0.5]\n"]
)
def test_the_page_and_the_command_line_refuse_the_same_yaml(tmp_path, text):
    from lsprism.cli.main import _build_parser
    from lsprism.cli.options import build_spec, collect_options, list_options

    path = tmp_path / "run.yaml"
    path.write_text(f"model-id: demo\nsave-path: out\n{text}")
    with pytest.raises(SpecError) as on_page:
        form_values.parse_yaml(path.read_text())
    with pytest.raises(SpecError) as on_line:
        options = _build_parser().parse_args(["compress", "--config", str(path)])
        build_spec(CompressSpec, collect_options(options, list_options(CompressSpec)))
    assert on_page.value.message == on_line.value.message.replace(f"--config {path}", "The file")


@pytest.mark.parametrize("text", ["- a\n- b\n", "model-id: [\n", "model-id: demo\ncolor: red\n", "sparsity: 0.5\n"])
def test_yaml_that_is_no_request_is_refused(text):
    with pytest.raises(SpecError):
        form_values.parse_yaml(text)


def test_the_command_is_the_one_that_will_run(tmp_path):
    runs = RunStore(tmp_path)
    command = form_values.format_command(form_values.make_spec({**VALUES, "save_path": "my out"}), runs)
    assert command.startswith("python -m lsprism compress --model-id demo") and "--save-path 'my out'" in command
    assert str(runs.folder) in form_values.format_command(form_values.make_spec(VALUES), runs)


def test_the_plan_does_not_depend_on_where_the_result_goes():
    assert form_values.make_plan_spec(form_values.make_spec({**VALUES, "save_path": "out"})) == form_values.make_spec(
        VALUES
    )


def test_presets_are_read_off_the_slider():
    assert [form_values.find_preset(0.3), form_values.find_preset(0.5), form_values.find_preset(0.42)] == [
        *form_values.PRESETS,
        form_values.CUSTOM,
    ]
    assert [form_values.get_sentence(0.3), form_values.get_sentence(0.42)] == [
        texts.PRESETS["Conservative 0.3"],
        texts.PRESETS["Custom"],
    ]


def test_the_settings_of_a_run_fill_the_form():
    spec = form_values.make_spec(VALUES)
    assert form_values.make_spec(form_values.map_settings(yaml.safe_load(spec.model_dump_json()))) == spec


@pytest.mark.parametrize("text", ["seed: 2020-13-45", "seed: !!int x", "a: " + "[" * 2000, "\0", "- a", "? [a]\n: b"])
def test_yaml_that_makes_no_sense_is_refused(text):
    with pytest.raises(SpecError):
        form_values.parse_yaml(text)
