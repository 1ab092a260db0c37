"""The recipe of a compression: everything that decides the bytes of the result, as stored in recipe.json."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal

from lsprism.old_names import replace_old_names
from lsprism.records.model_plan import LayerBudget

TrainingKind = Literal["reconstruct", "heal"]
OLD_BOS = "first"  # the calibration's `bos` of recipes that do not have it
# Entries that are not settings: values computed from them, and the local path of the base model.
BUDGETS = "site_budgets"
BASE_PATH = "base_path"


class Recipe:
    """All settings of a compression, and the values computed from them.

    `entries` is the JSON object: what this version does not know is kept, and what an older version did not store is
    missing.
    """

    def __init__(self, entries: Mapping[str, Any]) -> None:
        self.entries = dict(entries)

    def copy(self) -> "Recipe":
        return Recipe(self.entries)

    @property
    def model_id(self) -> str:
        return str(self.entries.get("model_id", ""))

    @property
    def revision(self) -> str:
        return str(self.entries.get("revision", ""))

    @property
    def base_model(self) -> str:
        return str(self.entries.get("base_model", ""))

    @property
    def base_path(self) -> str:
        """Where the base model is if it is local; otherwise, and in old recipes, the same as `model_id`."""
        return str(self.entries.get(BASE_PATH) or self.model_id)

    @property
    def method(self) -> str:
        return self.entries["method"]

    @property
    def sparsity(self) -> float:
        return self.entries["sparsity"]

    @property
    def version(self) -> str:
        """The version of LS-PRISM."""
        return self.entries["lsprism"]

    @property
    def compute_dtype(self) -> str | None:
        """Recipes without it are from versions that computed products in the dtype of the weights."""
        return self.entries.get("compute_dtype") or self.entries.get("dtype")

    @property
    def bos(self) -> str | None:
        """BOS placement of the calibration; None if the recipe does not say how it was calibrated."""
        calibration = self.entries.get("calibration")
        return calibration.get("bos", OLD_BOS) if isinstance(calibration, dict) else None

    def get_minutes(self, kind: TrainingKind) -> float | None:
        """The time limit of a training; None or 0: no limit."""
        return self.entries.get(f"{kind}_minutes")

    def get_steps(self, kind: TrainingKind) -> int | None:
        """The steps of a training; None or 0: no steps, or as many as the minutes allow."""
        return self.entries.get(f"{kind}_steps")

    def set_steps(self, kind: TrainingKind, steps: int | None) -> None:
        self.entries[f"{kind}_steps"] = steps

    def get_budgets(self) -> dict[str, LayerBudget] | None:
        """The layer budgets that were computed from measurements; None if there are none, or malformed ones."""
        with suppress(KeyError, AttributeError, TypeError, ValueError):
            return {name: LayerBudget(kept=kept, rank=rank) for name, (kept, rank) in self.entries[BUDGETS].items()}
        return None

    def set_budgets(self, budgets: dict[str, LayerBudget]) -> None:
        self.entries[BUDGETS] = {name: [budget.kept, budget.rank] for name, budget in budgets.items()}

    def get_options(self) -> dict[str, Any]:
        """All entries by today's names."""
        return replace_old_names(self.entries)

    def flatten_settings(self) -> dict[str, object]:
        """Settings by today's option name; `calibration` is the source of the calibration text."""
        options = self.get_options()
        text = options.get("calibration")
        inner = {"bos": OLD_BOS} | (text if isinstance(text, dict) else {"source": text})
        source = inner.pop("source", None)
        settings = {name: value for name, value in options.items() if name not in (BUDGETS, BASE_PATH)}
        settings.setdefault("compute_dtype", options.get("dtype"))  # see compute_dtype
        return {**settings, **inner, "calibration": source}
