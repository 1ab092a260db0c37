"""Products of many tokens by a weight that is stored in another form or dtype than it is multiplied in.

A tile is some rows of the weight. It is small enough to stay in the cache until it is multiplied, so the whole matrix
never exists beside the stored one. Tiles, and chunks of inputs and outputs, live in buffers that are used again: new
memory is cleared by the system first, which takes longer than to fill it.
"""

import threading
from collections.abc import Callable

import torch
from torch import Tensor

TILE_BYTES = 1 << 22  # of a weight
CHUNK_BYTES, LEAST_TOKENS = 1 << 23, 256  # of the inputs that are converted at once
_buffers = threading.local()

# Writes rows `first` to `last` of a weight into a tile [last - first, columns].
Fill = Callable[[int, int, Tensor], None]


def multiply_by_tiles(x: Tensor, rows: int, fill: Fill, bias: Tensor | None, compute: torch.dtype) -> Tensor:
    """x [..., columns] -> [..., rows] in the dtype of x, computed in `compute`. Not to be differentiated."""
    columns = x.shape[-1]
    tokens = x.reshape(-1, columns)
    y = tokens.new_empty(len(tokens), rows)
    bias = None if bias is None else bias.to(compute)
    step = tile_rows(columns, compute)
    size = len(tokens) if compute is x.dtype else max(LEAST_TOKENS, CHUNK_BYTES // (columns * compute.itemsize))
    for start in range(0, len(tokens), size):
        given, found = _converted(tokens[start : start + size], compute), y[start : start + size]
        for first in range(0, rows, step):
            last = min(first + step, rows)
            tile = empty_buffer("tile", last - first, columns, compute, x.device)
            fill(first, last, tile)
            _multiply(given, tile, None if bias is None else bias[first:last], found[:, first:last])
    return y.view(*x.shape[:-1], rows)


def tile_rows(columns: int, dtype: torch.dtype) -> int:
    """Rows of a tile."""
    return max(64, TILE_BYTES // (columns * dtype.itemsize))


def empty_buffer(name: str, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[rows, columns], not initialized; the next one of this name on this thread takes its memory."""
    held = _buffers.__dict__.get(name)
    if held is None or held.numel() < rows * columns or held.dtype is not dtype or held.device != device:
        with torch.inference_mode(False):
            held = _buffers.__dict__[name] = torch.empty(rows * columns, dtype=dtype, device=device)
    return held[: rows * columns].view(rows, columns)


def _converted(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x if x.dtype is dtype else empty_buffer("input", *x.shape, dtype, x.device).copy_(x)


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor) -> None:
    """y [tokens, rows], of any dtype and stride, = x weight^T + bias."""
    direct = y.dtype is x.dtype and y.is_contiguous()
    out = y if direct else empty_buffer("output", *y.shape, x.dtype, x.device)
    if bias is None:
        torch.mm(x, weight.T, out=out)
    else:
        torch.addmm(bias, x, weight.T, out=out)
    if not direct:
        y.copy_(out)
