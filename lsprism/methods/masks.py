"""From scores to the places that are kept."""

import torch
from torch import Tensor


def keep_per_row(scores: Tensor, kept: int) -> Tensor:
    """scores [rows, columns] -> bool mask with exactly `kept` places, the highest of each row.

    Every row keeps kept // rows places; the remainder goes, one each, to evenly spaced rows. Ties fall to the left.
    """
    rows, columns = scores.shape
    base, rest = divmod(kept, rows)
    order = scores.argsort(dim=1, descending=True, stable=True)
    mask = torch.zeros(rows, columns, dtype=torch.bool, device=scores.device)
    mask.scatter_(1, order[:, :base], True)
    if rest:
        richer = torch.arange(rest, device=scores.device) * rows // rest
        mask[richer, order[richer, base]] = True
    return mask
