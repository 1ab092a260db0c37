"""The method column-norm: prunes the input columns with the smallest ||W_j||_2 * ||X_j||_2, the same in every row."""

from lsprism.method_catalog import MethodInfo


class ColumnNorm:
    """Structured pruning: whole columns, and in the last column kept only as many rows as the budget allows."""

    info = MethodInfo(
        name="column-norm",
        summary="Sparse: prunes whole input columns by their norm. For comparison.",
        formula="prunes the columns with the lowest ‖Wⱼ‖₂ · ‖Xⱼ‖₂",
    )
    form = "sparse"
    needs_gram = False
    anchor = 0.0

    def compress(self, weight, stats, budget):
        """weight [rows, columns] -> packed weight with exactly `budget.kept` values."""
        import torch

        from lsprism.packed.formats import Sparse

        rows = weight.shape[0]
        norms = weight.float().norm(dim=0) * stats.norms
        order = norms.argsort(descending=True, stable=True)
        full, rest = divmod(budget.kept, rows)
        mask = torch.zeros_like(weight, dtype=torch.bool)
        mask[:, order[:full]] = True
        if rest:
            mask[:rest, order[full]] = True
        return Sparse.pack(weight, mask)
