"""Options and YAML speak of the same fields."""

import argparse
from pathlib import Path
from typing import get_args

import pytest

from lsprism.cli.options import Parser, add_options, build_spec, collect_options, list_options, normalize_dashes
from lsprism.errors import SpecError
from lsprism.runs.yaml_options import read_options
from lsprism.specs import CompressSpec, DtypeName, PatternName

OPTIONS = list_options(CompressSpec)
NAMES = [option.name for option in OPTIONS]


def parse(*words: str) -> argparse.Namespace:
    parser = Parser(prog="x")
    add_options(parser, OPTIONS)
    parser.add_argument("--config")
    return parser.parse_args(normalize_dashes(list(words)))


def fields(*words: str) -> dict:
    return collect_options(parse(*words), OPTIONS)


def config(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def read_config(path: Path, names: list[str]) -> dict[str, str]:
    return read_options(path, names, f"--config {path}")


def test_every_field_is_an_option_once():
    assert len(set(NAMES)) == len(NAMES)
    assert {"model_id", "calibration", "column", "samples", "length", "seed", "save_path", "resume"} <= set(NAMES)


def test_only_what_was_said_is_asked_and_stands_where_the_spec_has_it():
    assert fields() == {}
    assert fields("--seed", "3", "--calibration", "x.txt", "--method=svd", "--resume") == {
        "method": "svd",
        "calibration": {"source": "x.txt", "seed": "3"},
        "resume": True,
    }


@pytest.mark.parametrize("name", ["--model-id", "--model_id", "--model-path", "--model_path"])
def test_the_model_has_two_names_and_underscores_do(name):
    assert fields(name, "demo") == {"model_id": "demo"}
    assert fields(f"{name}=a_b") == {"model_id": "a_b"}


def test_underscores_in_values_stay():
    assert normalize_dashes(["--save_path", "a_b", "--calibration=c_d", "-x_y"]) == [
        "--save-path",
        "a_b",
        "--calibration=c_d",
        "-x_y",
    ]


def test_options_are_not_guessed_from_their_beginnings():
    with pytest.raises(SpecError):
        parse("--samp", "4")


def test_yaml_takes_the_options_with_dashes_or_underscores_and_keeps_values_as_they_are(tmp_path):
    path = config(tmp_path, "model_path: demo\nsave-path: out\npattern: 2:4\nresume: true\nseed: 007\nrevision: 1e3\n")
    assert read_config(path, NAMES) == {
        "model_id": "demo",
        "save_path": "out",
        "pattern": "2:4",  # YAML 1.1 alone would say 124
        "resume": "true",
        "seed": "007",
        "revision": "1e3",
    }


def test_yaml_gives_the_very_spec_that_the_command_line_gives(tmp_path):
    path = config(
        tmp_path, "model_id: m\nsave_path: o\nmethod: wanda\npattern: 4:8\nsamples: 3\ncalibration: t.txt\nforce: yes\n"
    )
    line = "--model-id m --save-path o --method wanda --pattern 4:8 --samples 3 --calibration t.txt --force".split()
    assert build_spec(CompressSpec, fields("--config", str(path))) == build_spec(CompressSpec, fields(*line))


def test_yaml_may_group_the_calibration_as_the_spec_does(tmp_path):
    path = config(tmp_path, "calibration:\n  source: t.txt\n  samples: 3\n")
    assert fields("--config", str(path)) == {"calibration": {"source": "t.txt", "samples": "3"}}


def test_the_command_line_overrides_yaml(tmp_path):
    path = config(tmp_path, "method: svd\nsparsity: 0.3\nsamples: 9\nseed: 2\n")
    assert fields("--config", str(path), "--sparsity", "0.4", "--seed", "5") == {
        "method": "svd",
        "sparsity": "0.4",
        "calibration": {"samples": "9", "seed": "5"},
    }


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("sparsty: 0.5", "unknown option 'sparsty'", "Did you mean sparsity?"),
        ("frobnicate: 1", "unknown option 'frobnicate'", "model_id, revision"),
        ("calibration: {sauce: 1}", "unknown option 'sauce'", "source"),
        ("sparsity: [0.5, 0.6]", "sparsity takes one value, got ['0.5', '0.6']", "option: value"),
        ("sparsity: {a: 1}", "sparsity takes one value", "option: value"),
        ("- a\n- b", "holds no options", "option: value"),
        ("", "holds no options", "option: value"),
        ("a: [1", "cannot be read: ", "option: value"),
        ("\x00", "cannot be read: ", "option: value"),
    ],
)
def test_a_yaml_file_that_will_not_do_is_refused_in_one_sentence(tmp_path, text, says, hint):
    with pytest.raises(SpecError) as caught:
        read_config(config(tmp_path, text), [*NAMES, "source"] if "sauce" in text else NAMES)
    assert says in caught.value.message
    assert "run.yaml" in caught.value.message
    assert "\n" not in caught.value.message
    assert hint in caught.value.hint


def test_a_yaml_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SpecError, match="none.yaml cannot be read: No such file or directory[.]"):
        read_config(tmp_path / "none.yaml", NAMES)


def test_what_must_be_given_and_was_not_is_named_as_an_option():
    with pytest.raises(SpecError, match="^--model-id is missing[.]"):
        build_spec(CompressSpec, {"save_path": "out"})
    with pytest.raises(SpecError, match="^--save-path is missing[.]"):
        build_spec(CompressSpec, {"model_id": "demo"})


def test_help_says_what_fits():
    parser = Parser(prog="x")
    add_options(parser, OPTIONS)
    text = " ".join(parser.format_help().split())
    assert "{hybrid,oats,sparsegpt,wanda,magnitude,svd,svd-plain}" in text
    for choices in (PatternName, DtypeName):
        assert "{" + ",".join(get_args(choices)) + "}" in text
    assert "(above 0, below 1; default 0.5)" in text
    assert "(1 to 65536; default 64)" in text
    assert "(0 or more; default 0)" in text


@pytest.mark.parametrize("nothing", ["~", "null", "Null", "NULL", ""])
def test_null_in_yaml_leaves_the_default(tmp_path, nothing):
    assert read_config(config(tmp_path, f"revision: {nothing}\nseed: 3\n"), NAMES) == {"seed": "3"}


@pytest.mark.parametrize("text", ["~/x", "nullable", "n", "~ann/x", "'~'", '"null"', "''"])
def test_words_that_only_begin_like_null_stay(tmp_path, text):
    assert read_config(config(tmp_path, f"column: {text}\n"), NAMES) == {"column": text.strip("'\"")}


def test_home_folders_in_yaml_and_options(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config(tmp_path, "model-id: m\nsave-path: ~/out\n")
    assert build_spec(CompressSpec, fields("--config", "~/run.yaml")).save_path == tmp_path / "out"
    assert build_spec(CompressSpec, fields("--model-id=m", "--save-path=~/b")).save_path == tmp_path / "b"


@pytest.mark.parametrize("text", ["a: " + "[" * 999, "\0", "a: \x07", "? [a]\n: b", "&a [*a]: 1", "a: *b"])
def test_yaml_that_makes_no_sense_is_refused(tmp_path, text):
    with pytest.raises(SpecError, match=r"run.yaml (cannot be read|has the unknown option|holds no options)"):
        read_config(config(tmp_path, text), NAMES)
