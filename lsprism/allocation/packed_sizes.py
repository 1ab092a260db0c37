"""Sizes of the packed formats: parameters, bytes, and break-even points."""

from lsprism.packed.formats import count_bitmap_columns
from lsprism.records.model_plan import FormName, LayerBudget, ValuesName
from lsprism.specs import PatternName, PlanSpec


def count_packed_bytes(
    form: FormName, shape: tuple[int, int], budget: LayerBudget, itemsize: int, values: ValuesName = "float"
) -> int:
    """Stored bytes of a packed weight of `shape` (rows, columns) that keeps `budget`, without bias.

    `itemsize`: bytes per value of the model's dtype. int8 values take one byte, plus a scale of the model's dtype per
    row of the sparse part and of each factor.
    """
    rows, columns = shape
    bitmap = rows * count_bitmap_columns(columns) if form in ("sparse", "sparse_low_rank") else 0
    kept = rows * columns if form == "dense" else budget.kept
    if values == "float" or form == "dense":
        return kept * itemsize + bitmap
    scales = {"sparse": rows, "low_rank": rows + budget.rank, "sparse_low_rank": 2 * rows + budget.rank}[form]
    return kept + scales * itemsize + bitmap


def compute_break_even_rank(rows: int, columns: int) -> int:
    """The highest rank whose factors are smaller than the matrix: below rows * columns / (rows + columns)."""
    return max(0, (rows * columns - 1) // (rows + columns))


def split(form: FormName, rows: int, columns: int, kept: int, spec: PlanSpec) -> LayerBudget:
    """Divide `kept` parameters of one matrix between non-zeros and low-rank factors, by the options of `spec`.

    N:M pattern: the number of entries that the pattern keeps, which is `kept` up to rounding; no factors.
    Low-rank: the highest rank within `kept`, at least 1; `kept` is rounded to the parameters of its factors.
    Sparse + low-rank: the rank nearest to rank_share * kept / (rows + columns). It may be 0, since one rank
    would take most of a small budget and increase the error.
    """
    if budget := make_pattern_budget(rows, columns, spec.pattern):
        return budget
    if form == "sparse":
        return LayerBudget(kept=kept)
    affordable = min(kept // (rows + columns), rows, columns)
    if form == "low_rank":
        rank = max(1, affordable)
        return LayerBudget(kept=rank * (rows + columns), rank=rank)
    return LayerBudget(kept=kept, rank=min(affordable, round(spec.rank_share * kept / (rows + columns))))


def make_pattern_budget(rows: int, columns: int, pattern: PatternName) -> LayerBudget | None:
    """The budget of an N:M pattern such as 2:4: n of every m columns, and up to n of an incomplete last group."""
    if pattern == "unstructured":
        return None
    n, m = map(int, pattern.split(":"))
    return LayerBudget(kept=rows * (n * (columns // m) + min(n, columns % m)), pattern=(n, m))
