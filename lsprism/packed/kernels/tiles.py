"""Products of many tokens with a weight that is converted tile by tile from its stored format or dtype.

A tile is a few rows of the weight, small enough to stay in the CPU cache until it is multiplied; the converted matrix
never exists as a whole. Tiles, and chunks of inputs and outputs, use persistent buffers, because the system clears new
memory first, which takes longer than filling it.
"""

import mmap
import threading
from collections.abc import Callable

import torch
from torch import Tensor

TILE_BYTES = 1 << 22
CHUNK_BYTES = 1 << 23  # inputs and outputs that are converted at once,
LEAST_TOKENS = 256  # but at least this many tokens
_buffers = threading.local()

# Writes rows `first` to `last` of a weight into a tile [last - first, columns].
Fill = Callable[[int, int, Tensor], None]


def multiply_by_tiles(
    x: Tensor,
    rows: int,
    fill: Fill,
    bias: Tensor | None,
    compute: torch.dtype,
    factors: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """x [..., columns] -> [..., rows] in the dtype of x, computed in `compute`. Does not support autograd.

    `fill` provides the rows of the weight. `factors`: left [rows, rank] and right [rank, columns] of a low-rank part
    that is added to the weight.
    """
    columns = x.shape[-1]
    tokens = x.reshape(-1, columns)
    y = tokens.new_empty(len(tokens), rows)
    bias = None if bias is None else bias.to(compute)
    left, right = (None, None) if factors is None else (factor.to(compute) for factor in factors)
    step = count_tile_rows(columns, compute)
    size = len(tokens)
    if compute is not x.dtype:
        size = max(LEAST_TOKENS, CHUNK_BYTES // ((columns + min(rows, step)) * compute.itemsize))
    for start in range(0, len(tokens), size):
        given, found = _convert(tokens[start : start + size], compute), y[start : start + size]
        inner = None if right is None else given @ right.T
        for first in range(0, rows, step):
            last = min(first + step, rows)
            tile = get_buffer("tile", last - first, columns, compute, x.device)
            fill(first, last, tile)
            added = None if inner is None or left is None else (inner, left[first:last])
            _multiply(given, tile, None if bias is None else bias[first:last], added, found[:, first:last])
    return y.view(*x.shape[:-1], rows)


def count_tile_rows(columns: int, dtype: torch.dtype) -> int:
    """Rows per tile."""
    return max(64, TILE_BYTES // (columns * dtype.itemsize))


def get_buffer(name: str, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[rows, columns], uninitialized. The next buffer with this name on this thread reuses its memory."""
    held = _buffers.__dict__.get(name)
    if held is None or held.numel() < rows * columns or held.dtype is not dtype or held.device != device:
        with torch.inference_mode(False):
            held = _buffers.__dict__[name] = _allocate(rows * columns, dtype, device)
    return held[: rows * columns].view(rows, columns)


def _allocate(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """On the CPU outside the heap: a long-lived buffer would fragment it."""
    if device.type != "cpu":
        return torch.empty(count, dtype=dtype, device=device)
    return torch.frombuffer(mmap.mmap(-1, count * dtype.itemsize), dtype=dtype)


def _convert(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x if x.dtype is dtype else get_buffer("input", x.shape[0], x.shape[1], dtype, x.device).copy_(x)


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None, added: tuple[Tensor, Tensor] | None, y: Tensor) -> None:
    """y [tokens, rows], of any dtype and stride, = x weight^T + bias + inner left^T, where `added` = inner, left."""
    direct = y.dtype is x.dtype and y.is_contiguous()
    out = y if direct else get_buffer("output", y.shape[0], y.shape[1], x.dtype, x.device)
    if bias is None:
        torch.mm(x, weight.T, out=out)
    else:
        torch.addmm(bias, x, weight.T, out=out)
    if added is not None:
        out.addmm_(added[0], added[1].T)
    if not direct:
        y.copy_(out)
