"""The format of sparse matrices on a GPU: streams of values and 2-bit gaps, interleaved for the lanes of a warp.

Eight rows make an octet, which one warp multiplies. Lane 4 g + t has row g and its columns c with c % 4 == t; place
c // 4 is where its x lies. From left to right a lane's stream is a list of slots (value, gap): the gap, 0 to 3, is how
many places are skipped before the value. Where four or more are to be skipped, a filler (value 0, gap 3) comes first,
which skips three places and stands on the fourth.

A step is 16 slots of all 32 lanes: 16 values of each lane in loads of 16 bytes, then a word of gaps for each lane. Slot
4 k + j has its gap at bit 2 k of byte j. Rows are sorted by length, so that the rows of an octet are about as long as
each other, and streams are padded with zeros to whole steps. Wide matrices are split into panels of columns, each with
streams of its own.

At half of the values this takes 18 bits a slot and 1.07 slots a value, 62 % of the dense bfloat16 matrix. Artifacts
have the bitmap of formats.py: this format is made from it on the device, and gives it back.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SLOTS, LANES, OCTET = 16, 32, 8
WIDEST_PANEL = 5120  # columns: x of 8 tokens takes 80 KB of shared memory
_CHUNK = 2048  # rows that are packed at a time, to bound the memory that packing takes
_SHIFTS = (0, 2, 4, 6)


@dataclass(frozen=True)
class Panel:
    """Streams of some columns of a matrix."""

    steps: Tensor  # uint8 [all steps, bytes]
    counts: Tensor  # int32 [octets]: the steps of each, at least one

    @property
    def advances(self) -> Tensor:
        """int32 [all steps, lanes]: how many places each lane moves on in a step."""
        gaps = self.steps[:, -4 * LANES :].reshape(-1, LANES, 4)
        moved = torch.stack([gaps >> shift & 3 for shift in _SHIFTS], 3)
        return SLOTS + moved.sum((2, 3), dtype=torch.int32)


@dataclass(frozen=True)
class Streams:
    """A matrix [rows, columns] in this format."""

    panels: list[Panel]
    order: Tensor  # int32 [octets * 8]: which row is where, -1 where there is none
    rows: int
    columns: int
    dtype: torch.dtype  # of the values


def panel_width(columns: int) -> int:
    """Columns of each panel but the last, a multiple of 4."""
    panels = -(-columns // WIDEST_PANEL)
    return -(-columns // (4 * panels)) * 4


def pack_streams(matrix: Tensor, mask: Tensor | None = None, order: Tensor | None = None) -> Streams:
    """`matrix` [rows, columns] where `mask` is true, or all of it. `order`: that of another matrix with these rows."""
    rows, columns = matrix.shape
    if order is None:
        order = torch.arange(rows, device=matrix.device) if mask is None else _sort_rows(mask)
        order = torch.nn.functional.pad(order.int(), (0, -rows % OCTET), value=-1)
    width = panel_width(columns)
    panels = []
    for first in range(0, columns, width):
        last = min(first + width, columns)
        chunks = [_pack_rows(matrix, mask, chunk, first, last) for chunk in order.split(_CHUNK)]
        panels.append(Panel(torch.cat([steps for steps, _ in chunks]), torch.cat([counts for _, counts in chunks])))
    return Streams(panels, order, rows, columns, matrix.dtype)


def unpack_streams(streams: Streams) -> Tensor:
    """[rows, columns], zero where nothing is kept."""
    shape = len(streams.order), streams.columns
    matrix = torch.zeros(shape, dtype=streams.dtype, device=streams.order.device)
    width = panel_width(streams.columns)
    for n, panel in enumerate(streams.panels):
        values, gaps = _split(panel.steps, streams.dtype)
        places = _places(gaps, panel)
        lanes = torch.arange(LANES, device=places.device)[:, None]
        octets = torch.arange(len(panel.counts), device=places.device).repeat_interleave(panel.counts)[:, None, None]
        kept = values.view(torch.int8 if values.itemsize == 1 else torch.int16) != 0
        rows, columns = (octets * OCTET + lanes // 4).expand_as(kept), n * width + places * 4 + lanes % 4
        matrix[rows[kept], columns[kept]] = values[kept]
    there = streams.order >= 0
    found = torch.empty(streams.rows, streams.columns, dtype=streams.dtype, device=matrix.device)
    found[streams.order[there].long()] = matrix[there]
    return found


def _sort_rows(mask: Tensor) -> Tensor:
    """Rows by the length of the longest of their four streams, as far as the number of values says it."""
    padded = torch.nn.functional.pad(mask, (0, -mask.shape[1] % 4))
    return padded.view(len(mask), -1, 4).sum(1, dtype=torch.int32).amax(1).argsort(stable=True)


def _pack_rows(matrix: Tensor, mask: Tensor | None, order: Tensor, first: int, last: int) -> tuple[Tensor, Tensor]:
    """Steps and counts of the rows `order` in columns `first` to `last`."""
    there, rows = order >= 0, order.clamp(min=0).long()
    values, kept = _lanes(matrix[:, first:last][rows]), there[:, None].expand(-1, last - first)
    kept = _lanes(kept if mask is None else kept & mask[:, first:last][rows])
    stream, place = kept.nonzero(as_tuple=True)
    before = torch.nn.functional.pad(place, (1, 0), value=-1)[:-1]
    before[1:][stream[1:] != stream[:-1]] = -1
    skipped = place - before - 1
    fillers = skipped >> 2
    lengths = torch.zeros(len(kept), dtype=torch.int64, device=kept.device).index_add_(0, stream, fillers + 1)
    slot = (fillers + 1).cumsum(0) - 1 - (lengths.cumsum(0) - lengths)[stream]
    counts = lengths.view(-1, LANES).amax(1).add(SLOTS - 1).div(SLOTS, rounding_mode="floor").clamp(min=1)
    ends = counts.cumsum(0)
    total = int(ends[-1])

    def position(stream: Tensor, slot: Tensor) -> Tensor:
        step = (ends - counts)[stream // LANES] + slot // SLOTS
        return (step * LANES + stream % LANES) * SLOTS + slot % SLOTS

    found = torch.zeros(total * LANES * SLOTS, dtype=matrix.dtype, device=matrix.device)
    gaps = torch.zeros(total * LANES * SLOTS, dtype=torch.uint8, device=matrix.device)
    at = position(stream, slot)
    found[at], gaps[at] = values[kept], (skipped & 3).to(torch.uint8)
    filled = fillers.nonzero().flatten().repeat_interleave(fillers[fillers > 0])
    nth = torch.arange(len(filled), device=filled.device) - (fillers.cumsum(0) - fillers)[filled]
    gaps[position(stream[filled], slot[filled] - 1 - nth)] = 3
    return _join(found, gaps), counts.int()


def _lanes(part: Tensor) -> Tensor:
    """[rows, columns] -> [rows * 4, places]: the streams, before anything is skipped."""
    padded = torch.nn.functional.pad(part, (0, -part.shape[1] % 4))
    return padded.view(len(part), -1, 4).transpose(1, 2).reshape(len(part) * 4, -1)


def _join(values: Tensor, gaps: Tensor) -> Tensor:
    """Of all slots [steps * lanes * slots] -> steps as they lie in memory, uint8 [steps, bytes]."""
    pieces = SLOTS * values.itemsize // 16  # loads of 16 bytes
    values = values.view(-1, LANES, pieces, SLOTS // pieces).transpose(1, 2).contiguous()
    shifts = torch.tensor(_SHIFTS, dtype=torch.uint8, device=gaps.device)[:, None]
    words = (gaps.view(-1, LANES, 4, 4) << shifts).sum(2, dtype=torch.uint8)
    return torch.cat([values.view(torch.uint8).view(len(words), -1), words.view(len(words), -1)], dim=1)


def _split(steps: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The reverse: values and gaps, both [steps, lanes, slots]."""
    pieces = SLOTS * dtype.itemsize // 16
    values = steps[:, : -4 * LANES].contiguous().view(dtype).view(-1, pieces, LANES, SLOTS // pieces)
    words = steps[:, -4 * LANES :].reshape(-1, LANES, 1, 4)
    shifts = torch.tensor(_SHIFTS, dtype=torch.uint8, device=steps.device)[:, None]
    return values.transpose(1, 2).reshape(-1, LANES, SLOTS), (words >> shifts & 3).view(-1, LANES, SLOTS)


def _places(gaps: Tensor, panel: Panel) -> Tensor:
    """int32 [steps, lanes, slots]: the place of each slot."""
    inside = (gaps + 1).cumsum(2, dtype=torch.int32)
    return inside - 1 + place_at_steps(inside[:, :, -1], panel.counts)[:, :, None]


def place_at_steps(advances: Tensor, counts: Tensor) -> Tensor:
    """int32 [steps, lanes]: the place of each lane at the beginning of each step, 0 where an octet begins."""
    ends = counts.long().cumsum(0)
    before = advances.cumsum(0, dtype=torch.int32) - advances
    return before - before[(ends - counts).repeat_interleave(counts)]
