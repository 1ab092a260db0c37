"""An allocation rule of another package: one file and an entry point, and nothing else changes."""

import sys
from pathlib import Path

import pytest
from conftest import make_model

import lsprism
from lsprism import allocation
from lsprism.cli.options import Parser, add_options, list_options
from lsprism.errors import SpecError
from lsprism.rule_catalog import list_built_in_rules, list_rule_names
from lsprism.specs import CompressSpec, PlanSpec, validate

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
EXAMPLE = HERE / "first_and_last.py"
NAME = "first-and-last"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with the example as it is, and two rules that are broken."""
    folder = tmp_path / "packages"
    info = folder / "example_rule-1.dist-info"
    info.mkdir(parents=True)
    (folder / EXAMPLE.name).write_bytes(EXAMPLE.read_bytes())
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: example-rule\nVersion: 1\n")
    lines = [f"{NAME} = first_and_last:RULE", "lost = no_such_module:RULE", "other = first_and_last:MORE"]
    lines += ["harm = first_and_last:RULE"]  # an old name, which is taken
    (info / "entry_points.txt").write_text("\n".join(["[lsprism.allocation]", *lines]) + "\n")
    monkeypatch.syspath_prepend(folder)
    yield
    sys.modules.pop("first_and_last", None)
    allocation._load_added.cache_clear()


def test_the_example_is_short_and_quoted():
    code = EXAMPLE.read_text(encoding="utf-8")
    assert len(code.splitlines()) <= 30
    assert f"```python\n{code}```" in (ROOT / ".github/CONTRIBUTING.md").read_text(encoding="utf-8")


def test_a_model_is_compressed_with_an_added_rule(package, text_file, tmp_path):
    model = make_model(tmp_path / "model", blocks=4)
    calibration = {"source": str(text_file), "samples": 2, "length": 16}
    settings = {"method": "magnitude", "allocation": NAME, "sparsity": 0.5, "calibration": calibration}
    plan = lsprism.inspect(str(model), **settings)
    report = lsprism.compress(str(model), tmp_path / "small", **settings)
    assert [layer.kept for layer in report.layers] == [site.kept for site in plan.sites]
    ends = [site.kept / site.site.parameters for site in plan.sites if site.site.block in (0, 3)]
    middle = [site.kept / site.site.parameters for site in plan.sites if site.site.block in (1, 2)]
    assert min(ends) > 0.5 > max(middle)
    assert sum(site.kept for site in plan.sites) == round(0.5 * sum(site.site.parameters for site in plan.sites))


def test_its_name_is_a_choice_without_loading_it(package):
    parser = Parser(prog="x")
    add_options(parser, list_options(CompressSpec))
    assert f"error-curves,{NAME},lost,other" in "".join(parser.format_help().split())
    assert "first_and_last" not in sys.modules
    assert list_rule_names()[-3:] == [NAME, "lost", "other"]


def test_what_does_not_fit_is_refused(package, tiny_folder):
    with pytest.raises(SpecError, match="should be 'auto', .* or 'other'"):
        validate(PlanSpec, model_id="demo", allocation="nothing")
    with pytest.raises(SpecError, match="The allocation rule lost cannot be loaded: No module named"):
        lsprism.inspect(str(tiny_folder), allocation="lost")
    with pytest.raises(SpecError, match="first_and_last:MORE is not an allocation rule"):
        lsprism.inspect(str(tiny_folder), allocation="other")


def test_readme_describes_every_rule():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, (info, _) in list_built_in_rules().items():
        assert f"\n| `{name}` | {info.keeps} |\n" in readme
