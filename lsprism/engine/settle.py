"""Layer budgets that depend on measurements are computed once, before the compression, and stored in its recipe."""

from collections.abc import Generator

from torch import Tensor

from lsprism.artifact.target import BUDGETS, check_recipe, known_budgets, with_known_steps
from lsprism.budgets.allot import allot
from lsprism.engine.plan import Draft, shared_out
from lsprism.engine.traits import learnt
from lsprism.events import Event
from lsprism.specs import CompressSpec


def settled(spec: CompressSpec, draft: Draft, tokens: Tensor, recipe: dict) -> Generator[Event, None, Draft]:
    """Return the draft with the layer budgets of its allocation rule, which are also written to `recipe`.

    A resumed run uses the budgets that it started with. tokens [samples, length].
    """
    if spec.resume:
        check_recipe(spec.save_path, with_known_steps(spec.save_path, recipe), force=spec.force)
    budgets = known_budgets(spec.save_path, recipe) if spec.resume else None
    if budgets is None:
        traits = yield from learnt(spec, draft, tokens)
        budgets = allot(spec, draft.anatomy.sites, traits)
    recipe[BUDGETS] = {name: [budget.kept, budget.rank] for name, budget in budgets.items()}
    return shared_out(draft, spec, budgets)
