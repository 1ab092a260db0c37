"""Options, values and commands of earlier versions still work: on the command line, in YAML, Python and on disk."""

import json
import shlex
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

import lsprism
from lsprism import evaluation_api
from lsprism.artifact.recipe import Recipe
from lsprism.artifact.target import find_recipe_differences
from lsprism.cli.main import main
from lsprism.cli.options import Parser, add_options, build_spec, collect_options, list_options
from lsprism.errors import SpecError
from lsprism.records.model_plan import Plan
from lsprism.rule_catalog import list_rule_names
from lsprism.runs import RunRequest, RunStore
from lsprism.specs import CompressSpec, PlanSpec, SweepSpec, validate

LEAST = {"model_id": "demo", "save_path": "out"}
OLD = [("harm", "sensitivity"), ("measured", "error-curves"), ("owl", "owl")]


def parse(spec: type[BaseModel], words: list[str]) -> BaseModel:
    parser, options = Parser(prog="x"), list_options(spec)
    add_options(parser, options)
    parser.add_argument("--config")
    return build_spec(spec, collect_options(parser.parse_args(words), options))


@pytest.mark.parametrize(("old", "new"), OLD)
@pytest.mark.parametrize("spec", [CompressSpec, SweepSpec])
def test_old_options_and_values_make_the_same_request(tmp_path, spec, old, new):
    (tmp_path / "old.yaml").write_text(f"model_id: demo\nsave_path: out\nbudget: {old}\n")
    (tmp_path / "new.yaml").write_text(f"model_id: demo\nsave_path: out\nallocation: {new}\n")
    words = ["--model-id", "demo", "--save-path", "out"]
    wanted = validate(spec, **LEAST, allocation=new)
    assert wanted.allocation == new
    for found in (
        validate(spec, **LEAST, budget=old),
        validate(spec, **LEAST, allocation=old),
        spec.model_validate_json(json.dumps({**LEAST, "budget": old})),
        parse(spec, [*words, "--budget", old]),
        parse(spec, [*words, f"--allocation={old}"]),
        parse(spec, [*words, f"--allocation={new}"]),
        parse(spec, ["--config", str(tmp_path / "old.yaml")]),
        parse(spec, ["--config", str(tmp_path / "new.yaml")]),
        parse(spec, ["--config", str(tmp_path / "new.yaml"), "--budget", old]),
    ):
        assert found == wanted


def test_an_old_name_next_to_its_new_one_is_refused():
    with pytest.raises(SpecError, match="--budget: extra"):
        validate(PlanSpec, model_id="demo", budget="owl", allocation="atp")


def test_new_names_are_written_and_old_ones_are_not_shown(capsys):
    spec = validate(PlanSpec, model_id="demo", budget="harm")
    assert "budget" not in spec.model_dump() and spec.model_dump()["allocation"] == "sensitivity"
    for command in ([], ["compress"], ["sweep"], ["inspect"]):
        main([*command, "--help"])
    text = capsys.readouterr().out
    assert "--budget" not in text and "harm" not in text and "study " not in text
    assert "--allocation" in text and "error-curves" in text


def test_a_wrong_value_of_the_old_option_is_named(capsys):
    assert main(["inspect", "--model-id", "demo", "--budget", "none"]) == 2
    assert capsys.readouterr().err.startswith("error --allocation: input should be 'auto'")


def test_an_old_plan_is_read(tiny_folder):
    plan = lsprism.inspect(tiny_folder, method="hybrid").model_dump(mode="json")
    assert plan["allocation"] == "sensitivity"
    old = {name: value for name, value in plan.items() if name != "allocation"} | {"budget": "owl"}
    assert Plan.model_validate(old).allocation == "owl"
    with pytest.raises(ValidationError):
        Plan.model_validate({name: value for name, value in old.items() if name != "budget"})


@pytest.mark.parametrize(("old", "new"), OLD)
def test_recipes_are_compared_by_the_current_names(tmp_path, old, new):
    (tmp_path / "lsprism").mkdir()
    (tmp_path / "lsprism" / "recipe.json").write_text(json.dumps({"method": "hybrid", "budget": old}))
    assert find_recipe_differences(tmp_path, Recipe({"method": "hybrid", "allocation": new})) == []
    assert find_recipe_differences(tmp_path, Recipe({"method": "hybrid", "allocation": "atp"})) == [
        f"allocation {new}, not atp"
    ]


@pytest.fixture
def runs(tmp_path, monkeypatch) -> RunStore:
    monkeypatch.setenv("LSPRISM_STATE", str(tmp_path / "state"))
    return RunStore()


def old_record(runs: RunStore, artifact: Path, state: str = "stopped") -> str:
    """A run of the command `study`, as earlier versions recorded it."""
    run = runs.create(runs.create_id(), RunRequest(verb="sweep", artifact=artifact, cwd=artifact.parent))
    path = runs.get_folder(run.id) / "record.json"
    record = json.loads(path.read_text())
    settings = {"model_id": "demo", "sparsities": [0.5], "method": "hybrid", "budget": "harm", "resume": False}
    words = ["--model-id", "demo", "--budget", "harm", "--save-path", str(artifact)]
    path.write_text(json.dumps({**record, "verb": "study", "words": words, "settings": settings, "state": state}))
    return run.id


def test_old_runs_are_listed_shown_and_deleted(runs, tmp_path, capsys):
    run_id = old_record(runs, tmp_path / "out")
    run = RunStore().get(run_id)
    assert (run.verb, run.settings["allocation"], run.is_resumable) == ("sweep", "sensitivity", True)
    assert main(["runs"]) == 0 and main(["runs", "show", run_id]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"{run_id} stopped sweep demo hybrid" in text
    assert "lsprism sweep --model-id demo --budget harm" in text
    assert main(["runs", "delete", run_id]) == 0
    assert RunStore().list_all() == ()


@pytest.mark.parametrize("command", ["sweep", "study"])
def test_an_old_sweep_is_resumed_by_either_command(runs, tmp_path, monkeypatch, command):
    """Also by the very words of its record, as from the dashboard."""
    run_id = old_record(runs, tmp_path / "out")
    specs = []
    monkeypatch.setattr(evaluation_api, "stream_study", lambda spec: specs.append(spec) or iter(()))
    monkeypatch.setattr("lsprism.cli.evaluate_commands.print_report", lambda *_: None)
    assert main([command, *RunStore().get(run_id).words, "--resume"]) == 0
    assert [run.id for run in RunStore().list_all()] == [run_id], "the same run"
    assert specs[0].allocation == "sensitivity" and specs[0].resume


def test_the_old_command_keeps_its_default_folder(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    specs = []
    monkeypatch.setattr(evaluation_api, "stream_study", lambda spec: specs.append(spec) or iter(()))
    monkeypatch.setattr("lsprism.cli.evaluate_commands.print_report", lambda *_: None)
    for command in ("sweep", "study"):
        assert main(shlex.split(f"{command} --model-id demo")) == 0
    assert [str(spec.save_path) for spec in specs] == ["output/demo-sweep", "output/demo-study"]
    assert lsprism.study is lsprism.sweep


def test_the_values_are_the_rules_of_the_allocation():

    assert {new for _, new in OLD} <= set(list_rule_names())
