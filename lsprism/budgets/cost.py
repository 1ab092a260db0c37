"""What a form costs: parameters and bytes, and where compressing stops paying."""

from lsprism.layers.forms import bitmap_columns
from lsprism.reports import FormName, LayerBudget, ValuesName
from lsprism.specs import PatternName, PlanSpec


def form_bytes(
    form: FormName, shape: tuple[int, int], budget: LayerBudget, itemsize: int, values: ValuesName = "float"
) -> int:
    """Stored bytes of a form of (rows, columns) that keeps `budget`, in a model of `itemsize` bytes a number; no bias.

    int8 values take a byte each, and a number of the model's for each row of the sparse part and of the factors.
    """
    rows, columns = shape
    bitmap = rows * bitmap_columns(columns) if form in ("sparse", "sparse_low_rank") else 0
    kept = rows * columns if form == "dense" else budget.kept
    if values == "float" or form == "dense":
        return kept * itemsize + bitmap
    scales = {"sparse": rows, "low_rank": rows + budget.rank, "sparse_low_rank": 2 * rows + budget.rank}[form]
    return kept + scales * itemsize + bitmap


def break_even_rank(rows: int, columns: int) -> int:
    """The highest rank at which two factors are smaller than the matrix: below rows * columns / (rows + columns)."""
    return max(0, (rows * columns - 1) // (rows + columns))


def split(form: FormName, rows: int, columns: int, kept: int, spec: PlanSpec) -> LayerBudget:
    """Divide `kept` parameters of one matrix between non-zeros and factors, as `spec` asks.

    With a pattern: what the pattern keeps, which is the sparsity's share but for rounding in the last columns; factors
    get nothing.
    Low-rank: the highest rank within `kept`, at least 1; kept becomes exactly the parameters of its factors.
    Sparse + low-rank: the rank nearest to rank_share * kept / (rows + columns). It may be 0: in a small budget one rank
    would take most of it, at many times the error.
    """
    if budget := patterned(rows, columns, spec.pattern):
        return budget
    if form == "sparse":
        return LayerBudget(kept=kept)
    affordable = min(kept // (rows + columns), rows, columns)
    if form == "low_rank":
        rank = max(1, affordable)
        return LayerBudget(kept=rank * (rows + columns), rank=rank)
    return LayerBudget(kept=kept, rank=min(affordable, round(spec.rank_share * kept / (rows + columns))))


def patterned(rows: int, columns: int, pattern: PatternName) -> LayerBudget | None:
    """The budget of a pattern such as 2:4: n of every m columns, and n of what is left over, if there are as many."""
    if pattern == "unstructured":
        return None
    n, m = map(int, pattern.split(":"))
    return LayerBudget(kept=rows * (n * (columns // m) + min(n, columns % m)), pattern=(n, m))
