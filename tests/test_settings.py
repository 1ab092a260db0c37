"""The public functions: every command has one, their keywords are those of the specs, and a type checker sees them."""

import ast
import functools
import importlib
import inspect
import operator
import re
import subprocess
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from pydantic import BaseModel

import lsprism
from lsprism import settings, specs
from lsprism.cli.model_commands import COMMANDS

ROOT = Path(__file__).parents[1]
NESTED = {specs.CalibrationSpec: settings.CalibrationSettings, specs.MeasureSpec: settings.MeasureSettings}
GIVEN = ("model_id", "save_path")  # arguments of their own where they must be given
STATS = ("revision", "calibration", "device", "dtype", "compute_dtype")
PAIRS = [
    (specs.CalibrationSpec, settings.CalibrationSettings, None),
    (specs.MeasureSpec, settings.MeasureSettings, None),
    (specs.PlanSpec, settings.PlanSettings, None),
    (specs.PlanSpec, settings.StatsSettings, STATS),
    (specs.CompressSpec, settings.CompressSettings, None),
    (specs.EvaluateSpec, settings.EvaluateSettings, None),
    (specs.SweepSpec, settings.SweepSettings, None),
    (specs.GenerateSpec, settings.GenerateSettings, None),
]


def taken(annotation: Any) -> Any:
    """What a caller may give for a field: texts for paths and lists too, dicts for specs."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        text = any("_split" in repr(part) for part in arguments[1:])
        return Sequence[taken(get_args(arguments[0])[0])] | str if text else taken(arguments[0])
    if origin in (types.UnionType, typing.Union):
        return functools.reduce(operator.or_, map(taken, arguments))
    if annotation in NESTED:
        return NESTED[annotation] | annotation
    return str | Path if annotation is Path else annotation


@pytest.mark.parametrize(("spec", "keywords", "part"), PAIRS)
def test_settings_are_the_fields_of_the_specs(spec, keywords, part):
    hints = get_type_hints(spec, include_extras=True)
    fields = {
        name: field
        for name, field in spec.model_fields.items()
        if not (name in GIVEN and field.is_required()) and (part is None or name in part)
    }
    wanted = {name: str | Path if hints[name] is specs.Text else taken(hints[name]) for name in fields}
    assert get_type_hints(keywords) == wanted


@pytest.mark.parametrize(("spec", "keywords", "part"), PAIRS)
def test_settings_name_their_defaults(spec, keywords, part):
    inherited = settings.PlanSettings.__doc__ if keywords is settings.CompressSettings else ""
    said = " ".join(f"{keywords.__doc__} {inherited}".split())
    for name in get_type_hints(keywords):
        default = spec.model_fields[name].get_default()
        value = "{}" if isinstance(default, BaseModel) else repr(default).replace("'", '"')
        assert re.search(rf"(^| ){re.escape(f'{name}={value}')}[,.]( |$)", said), f"{name}={value}"


def test_every_command_has_a_public_function():
    for command in COMMANDS:
        name = command.replace("-", "_")
        assert name in lsprism.__all__
        assert callable(getattr(lsprism, name)) or name == "runs"


def test_the_public_names_are_those_that_editors_see():
    """The imports for type checkers and those at run time name the same objects."""
    tree = ast.parse(Path(lsprism.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert sorted(seen) == sorted(lsprism.__all__) == lsprism.__all__
    for name, module in seen.items():
        home = importlib.import_module(module)
        wanted = importlib.import_module(f"lsprism.{name}") if module == "lsprism" else getattr(home, name)
        assert getattr(lsprism, name) is wanted


def test_no_public_function_takes_or_returns_anything():
    for name in lsprism.__all__:
        if inspect.isfunction(function := getattr(lsprism, name)):
            assert Any not in get_type_hints(function).values(), name


USES = """
import lsprism

reveal_type(lsprism.compress("demo", "out", sparsity=0.5, calibration={"samples": 8}))
reveal_type(lsprism.inspect("demo", method="wanda"))
reveal_type(lsprism.evaluate("out", measuring={"measures": ["sizes"]}))
reveal_type(lsprism.benchmark("out", "logic"))
reveal_type(lsprism.sweep("demo", "out", sparsities=[0.3]))
reveal_type(lsprism.export("out", "dense"))
reveal_type(lsprism.load("out").device)
reveal_type(lsprism.generate("out", "Hello", greedy=True).text)
reveal_type(lsprism.check_stats("demo", device="cpu"))
reveal_type(lsprism.spectra("out", "spectra.jsonl"))
reveal_type(lsprism.compare(["out"]))
"""
REVEALED = (
    "CompressionReport Plan EvalReport EvalReport SweepReport Path device str StatsReport list[LayerSpectrum] Table"
).split()
WRONG = """
import lsprism

lsprism.compress("demo", "out", sparsty=0.5)
lsprism.compress("demo", "out", effort="bets")
lsprism.inspect("demo", calibration={"sample": 8})
lsprism.evaluate("out", device=0)
"""


@pytest.mark.slow
def test_a_type_checker_knows_the_public_functions(tmp_path):
    (tmp_path / "uses.py").write_text(USES)
    (tmp_path / "wrong.py").write_text(WRONG)
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--no-error-summary"]
    command += [tmp_path / "uses.py", tmp_path / "wrong.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    revealed = [line.partition('Revealed type is "')[2].rstrip('"') for line in lines if "uses.py" in line]
    assert [re.sub(r"[\w.]+\.", "", one) for one in revealed] == REVEALED, done.stdout + done.stderr
    wrong = [line for line in lines if "wrong.py" in line and ": error:" in line]
    assert [int(line.split(":")[1]) for line in wrong] == [4, 5, 6, 7], done.stdout
