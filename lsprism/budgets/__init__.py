"""How much each layer may keep. To add a rule: a file here, a line below, its name in specs.BudgetName."""

from collections.abc import Callable

from lsprism.budgets.uniform import uniform
from lsprism.reports import LinearSite

BUDGETS: dict[str, Callable[[list[LinearSite], float], dict[str, int]]] = {"uniform": uniform}
