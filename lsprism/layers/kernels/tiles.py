"""Tiles: some rows of a weight in another form or dtype, in a buffer that is used again.

A tile is small enough to stay in the cache until it is multiplied, and the whole matrix never exists beside the stored
one. New memory for each tile would be cleared by the system first, which takes longer than to fill it.
"""

import threading

import torch
from torch import Tensor

TILE_BYTES = 1 << 22
_buffers = threading.local()


def tile_rows(columns: int, dtype: torch.dtype) -> int:
    """Rows of a tile."""
    return max(64, TILE_BYTES // (columns * dtype.itemsize))


def tile_of(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """`weight` [rows, columns] in `dtype`, until the next tile of this thread."""
    return empty_tile(*weight.shape, dtype, weight.device).copy_(weight)


def empty_tile(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[rows, columns], not initialized, in the buffer of this thread: it overwrites the tile before."""
    held = getattr(_buffers, "held", None)
    if held is None or held.numel() < rows * columns or held.dtype is not dtype or held.device != device:
        with torch.inference_mode(False):
            held = _buffers.held = torch.empty(rows * columns, dtype=dtype, device=device)
    return held[: rows * columns].view(rows, columns)
