"""A compression method of another package: one file and an entry point, and nothing else changes."""

import sys
from pathlib import Path

import pytest
import torch
from conftest import WORDS

import lsprism
from lsprism import method_catalog
from lsprism.cli.options import Parser, add_options, list_options
from lsprism.errors import SpecError
from lsprism.method_catalog import MethodInfo, list_built_in, list_method_names, list_method_summaries
from lsprism.methods import get_method
from lsprism.specs import CompressSpec, PlanSpec, validate

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
EXAMPLE = HERE / "column_norm.py"
NAME = "column-norm"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with the example as it is, and one method that is broken."""
    folder = tmp_path / "packages"
    info = folder / "example_method-1.dist-info"
    info.mkdir(parents=True)
    (folder / EXAMPLE.name).write_bytes(EXAMPLE.read_bytes())
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: example-method\nVersion: 1\n")
    lines = [f"{NAME} = column_norm:ColumnNorm", "lost = no_such_module:Lost", "other = column_norm:ColumnNorm"]
    (info / "entry_points.txt").write_text("\n".join(["[lsprism.methods]", *lines]) + "\n")
    monkeypatch.syspath_prepend(folder)
    yield
    sys.modules.pop("column_norm", None)
    method_catalog.load_added.cache_clear()


def test_the_example_is_short_and_quoted():
    code = EXAMPLE.read_text(encoding="utf-8")
    assert len(code.splitlines()) <= 40
    assert f"```python\n{code}```" in (ROOT / ".github/CONTRIBUTING.md").read_text(encoding="utf-8")


def test_a_model_is_compressed_with_an_added_method(package, tiny_folder, tmp_path):
    text = tmp_path / "text.txt"
    picks = torch.randint(3, len(WORDS), (400,), generator=torch.Generator().manual_seed(7)).tolist()
    text.write_text(" ".join(WORDS[n] for n in picks))
    calibration = {"source": str(text), "samples": 2, "length": 16}
    settings = {"method": NAME, "sparsity": 0.5, "calibration": calibration}
    assert lsprism.inspect(str(tiny_folder), **settings).duration is None, "the cost of the method is not known"
    report = lsprism.compress(str(tiny_folder), tmp_path / "small", **settings)
    plan_kept = [site.kept for site in lsprism.inspect(str(tiny_folder), **settings).sites]
    assert report.method == NAME and [layer.kept for layer in report.layers] == plan_kept
    assert lsprism.load(tmp_path / "small").model is not None


def test_its_name_is_a_choice_without_loading_it(package):
    parser = Parser(prog="x")
    add_options(parser, list_options(CompressSpec))
    assert f"svd-plain,{NAME},lost,other" in "".join(parser.format_help().split())
    assert "column_norm" not in sys.modules
    assert list_method_names()[-3:] == [NAME, "lost", "other"]
    assert list_method_summaries()[NAME].startswith("Sparse: prunes whole input columns")
    assert list_method_summaries()["lost"] == "lost"


def test_an_added_method_can_have_two_efforts(monkeypatch):
    class Careful:
        def __init__(self, *, best=False):
            self.best = best

    info = MethodInfo(name="careful", summary="", formula="", efforts=("fast", "best"))
    monkeypatch.setattr("lsprism.methods.load_added", lambda name: (info, Careful))
    assert get_method("careful", "best").best
    assert not get_method("careful", "fast").best


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"method": "nothing"}, "should be 'hybrid', .* or 'other'"),
        ({"method": "lost"}, "The method lost cannot be loaded: No module named"),
        ({"method": "other"}, "column_norm:ColumnNorm is not a method named other"),
        ({"method": NAME, "effort": "best"}, "--effort best requires --method hybrid, not column-norm"),
        ({"method": NAME, "pattern": "2:4"}, "--pattern 2:4 requires --method hybrid"),
    ],
)
def test_what_does_not_fit_is_refused(package, settings, says):
    with pytest.raises(SpecError, match=says):
        validate(PlanSpec, model_id="demo", **settings)


def test_readme_describes_every_method():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, (info, _) in list_built_in().items():
        default = " (default)" if name == "hybrid" else ""
        assert f"\n| `{name}`{default} | {info.formula} |\n" in readme
