"""The recipe: what it reads, and that its JSON stays as it was."""

import json

import pytest

from lsprism.artifact.manifest import RECIPE, read_recipe, write_json
from lsprism.artifact.recipe import Recipe
from lsprism.records.model_plan import LayerBudget

ENTRIES = {
    "model_id": "models/tiny",
    "base_model": "tiny",
    "method": "wanda",
    "sparsity": 0.5,
    "heal_minutes": 2.0,
    "heal_steps": 0,
    "of_a_newer_version": [1, 2],
    "lsprism": "9.0",
}


def test_unknown_entries_and_their_order_are_kept(tmp_path):
    write_json(tmp_path / RECIPE, ENTRIES)
    recipe = read_recipe(tmp_path)
    write_json(tmp_path / "again.json", recipe.entries)
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / RECIPE).read_bytes()


def test_computed_values_change_only_their_entry():
    recipe = Recipe(ENTRIES)
    recipe.set_steps("heal", 7)
    recipe.set_budgets({"layer": LayerBudget(kept=5, rank=1)})
    assert list(recipe.entries.items()) == list({**ENTRIES, "heal_steps": 7, "site_budgets": {"layer": [5, 1]}}.items())
    assert ENTRIES["heal_steps"] == 0
    assert Recipe(json.loads(json.dumps(recipe.entries))).get_budgets() == {"layer": LayerBudget(kept=5, rank=1)}


@pytest.mark.parametrize("budgets", [None, [], {"layer": 5}, {"layer": [1]}, {"layer": ["many", 1]}])
def test_malformed_budgets_are_computed_again(budgets):
    assert not Recipe({"site_budgets": budgets}).get_budgets()


def test_an_old_recipe_has_the_values_of_its_time():
    old = Recipe({"model_id": "models/tiny", "dtype": "bfloat16", "calibration": {"source": "auto"}, "budget": "harm"})
    assert (old.base_path, old.compute_dtype, old.bos) == ("models/tiny", "bfloat16", "first")
    assert old.flatten_settings()["allocation"] == "sensitivity"
    assert Recipe({"calibration": "auto"}).bos is None
