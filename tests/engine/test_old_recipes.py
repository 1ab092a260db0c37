"""Runs and artifacts of versions that called the allocation `budget`, with the values `harm` and `measured`."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from conftest import make_model
from tiny_runs import asked, digests, done, notices, stopped_after

import lsprism
from lsprism.artifact.manifest import MANIFEST, RECIPE
from lsprism.calibration.sensitivity_cache import traits_folder
from lsprism.errors import TargetError
from lsprism.events import Stage

pytestmark = pytest.mark.usefixtures("one_thread")

RULES = {"sensitivity": "harm", "error-curves": "measured", "spectrum": "spectrum"}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny", blocks=3)


def make_old(folder: Path) -> None:
    """Write the recipe in `folder` as earlier versions did."""
    recipe = json.loads((folder / RECIPE).read_text())
    old = {"budget" if name == "allocation" else name: value for name, value in recipe.items()}
    old["budget"] = RULES[old["budget"]]
    (folder / RECIPE).write_text(json.dumps(old))


@pytest.mark.parametrize("rule", RULES)
def test_a_run_begun_by_an_earlier_version_ends_with_the_same_bytes(model, text_file, tmp_path, rule):
    done(asked(model, text_file, tmp_path / "whole", method="hybrid", allocation=rule))
    spec = asked(model, text_file, tmp_path / "out", method="hybrid", allocation=rule)
    stopped_after(spec, 1)
    make_old(tmp_path / "out.part")
    shutil.rmtree(traits_folder())  # the layer budgets are those of the recipe
    with pytest.raises(TargetError, match=f"allocation {rule}, not owl"):
        done(spec.model_copy(update={"resume": True, "allocation": "owl"}))
    events = done(asked(model, text_file, tmp_path / "out", method="hybrid", budget=RULES[rule], resume=True))
    assert not [event for event in events if isinstance(event, Stage) and event.name == "measure"]
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_an_artifact_of_an_earlier_version_loads_exports_and_counts_as_finished(model, text_file, tmp_path):
    spec = asked(model, text_file, tmp_path / "out", method="sparsegpt", allocation="error-curves", device="cpu")
    done(spec)
    make_old(tmp_path / "out")
    seal(tmp_path / "out")
    assert any("already complete" in text for text in notices(done(spec.model_copy(update={"resume": True}))))
    assert lsprism.load(tmp_path / "out", device="cpu").model
    lsprism.export(tmp_path / "out", tmp_path / "dense")
    card = (tmp_path / "dense" / "README.md").read_text()
    assert "--allocation error-curves" in card and "--budget" not in card


def seal(folder: Path) -> None:
    """Make the manifest fit the changed recipe."""
    path = folder / MANIFEST
    manifest = json.loads(path.read_text())
    content = (folder / RECIPE).read_bytes()
    manifest["files"][str(RECIPE)] |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    path.write_text(json.dumps(manifest))


def test_sensitivities_measured_by_earlier_versions_are_found(model, text_file, tmp_path):
    """Their files are named by the old values, which are part of what the names are made from."""
    shutil.rmtree(traits_folder(), ignore_errors=True)
    done(asked(model, text_file, tmp_path / "a", method="wanda", allocation="sensitivity"))
    done(asked(model, text_file, tmp_path / "b", method="wanda", allocation="error-curves"))
    assert {path.name.partition("-")[0] for path in traits_folder().iterdir()} == {"harm", "measured", "achieved"}
