"""Which thread block and which warp multiplies which steps: the tables that streams.cu reads.

A launch has phases: for each panel of columns the right factors, then the sparse matrices, and at last the left
factors. Octets are divided among the thread blocks by their steps in all phases, in the middle of an octet where that
is needed, so that all blocks have the same work. The steps that a block has in a phase are divided among its warps in
the same way. Consecutive steps of one octet that one warp multiplies are a record, and its sums go to a slot of shared
memory. Steps are stored in the order in which warps read them, so that each warp reads one range from first to last.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["right", "sparse", "left"]
KINDS: tuple[Kind, ...] = ("right", "sparse", "left")
END = 1 << 30  # the phase after all phases
Table = np.ndarray  # of int32, unless another dtype is named


@dataclass(frozen=True)
class Phase:
    kind: Kind
    counts: Table  # [octets]: steps of each


@dataclass(frozen=True)
class Division:
    """Octets of one kind, divided among the blocks."""

    octets: Table  # [blocks, 2]: first octet, and how many, that a block has a part of
    parts: Table  # [octets, 2]: first block, and how many, that have a part of an octet


@dataclass(frozen=True)
class Launch:
    work: Table  # [blocks * warps, 4]: first record, first step, steps, 0
    records: Table  # [records, 4]: steps, slot, phase, octet; after the last one of each warp one of phase END
    sources: Table  # int64 [steps]: where each step stood when the phases stood one after the other
    begins: Table  # int64 [records]: the same for the first step of each record, -1 where there is none
    matrices: Division
    right: Division | None
    slots: dict[Kind, Table]  # [blocks, most octets of a block, 2]: first slot and how many
    slot_count: int  # that a block needs


def plan_launch(phases: list[Phase], blocks: int, warps: int) -> Launch:
    """Tables for `phases`, in the order in which they run."""
    right, sparse = _divide(phases, "right", blocks), _divide(phases, "sparse", blocks)
    assert sparse is not None
    bounds = [(right if one.kind == "right" else None) or sparse for one in phases]
    found = [_cut_phase(phases, n, bounds[n][1:], blocks, warps) for n in range(len(phases))]
    phase = np.repeat(np.arange(len(phases)), [len(rows) for rows in found])
    octet, warp, first, steps = np.concatenate(found).T
    kind = np.array([KINDS.index(one.kind) for one in phases])[phase]
    offsets = np.cumsum([0, *(one.counts.sum() for one in phases)])
    slot, slots = _number_slots(kind, octet, phase, warp, warps, sparse[0], right[0] if right else None)

    order = np.lexsort((first, phase, warp))
    records = np.zeros((len(order) + blocks * warps, 4), np.int32)
    records[:, 2] = END
    begins = np.full(len(records), -1, np.int64)
    at = np.arange(len(order)) + warp[order]  # each warp before has a record of its end
    records[at] = np.stack([steps, slot, phase, octet], 1)[order]
    begins[at] = (offsets[phase] + first)[order]

    work = np.zeros((blocks * warps, 4), np.int32)
    number, total = np.bincount(warp, minlength=len(work)), np.bincount(warp, steps, len(work)).astype(np.int64)
    work[:, 0] = np.cumsum(number) - number + np.arange(len(work))
    work[:, 1], work[:, 2] = np.cumsum(total) - total, total
    lengths = steps[order]
    inside = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return Launch(
        work, records, np.repeat(begins[at], lengths) + inside, begins, sparse[0],
        right[0] if right else None, slots, int(slot.max(initial=-1)) + 1,
    )  # fmt: skip


def _divide(phases: list[Phase], kind: Kind, blocks: int) -> tuple[Division, Table, Table, Table] | None:
    """The division of the octets of a kind, and for each bound between blocks its octet, its offset into that octet
    and the octet's steps in all phases. Left factors are divided as the sparse matrices are."""
    counts = [one.counts.astype(np.int64) for one in phases if (one.kind == "right") == (kind == "right")]
    if not counts:
        return None
    costs = np.sum(counts, axis=0)
    ends = costs.cumsum()
    busy = min(blocks, int(ends[-1]))  # the others have nothing to do
    bounds = ends[-1] * np.arange(blocks + 1).clip(max=busy) // busy
    octet = np.searchsorted(ends, bounds, side="right")
    last = np.searchsorted(ends, bounds[1:] - 1, side="right")
    number = np.where(bounds[1:] > bounds[:-1], last - octet[:-1] + 1, 0)
    own = np.stack([octet[:-1], number], 1).astype(np.int32)
    block, of = np.repeat(np.arange(blocks), number), _spread(own)
    parts = np.zeros((len(costs), 2), np.int32)
    parts[:, 0], parts[:, 1] = blocks, np.bincount(of, minlength=len(costs))
    np.minimum.at(parts[:, 0], of, block)
    offset = bounds - np.append(0, ends)[octet]
    return Division(own, parts), octet, offset, np.append(costs, 1)[octet]


def _cut_phase(phases: list[Phase], n: int, bounds: tuple, blocks: int, warps: int) -> Table:
    """int64 [records, 4] of one phase: octet, warp (of all), first step, steps."""
    octet, offset, cost = bounds
    counts = phases[n].counts.astype(np.int64)
    borders = np.append(0, counts.cumsum())
    cuts = borders[octet] + (2 * offset * np.append(counts, 0)[octet] + cost) // (2 * cost)
    share = np.arange(warps) * np.diff(cuts)[:, None] + n % 2 * (warps - 1)  # who has one more differs by phase
    starts = (cuts[:-1, None] + share // warps).ravel()
    points = np.unique(np.concatenate([borders, starts]))
    first = points[:-1]
    of = np.searchsorted(borders, first, side="right") - 1
    warp = np.searchsorted(starts, first, side="right") - 1
    return np.stack([of, warp, first, np.diff(points)], 1)


def _number_slots(
    kind: Table, octet: Table, phase: Table, warp: Table, warps: int, sparse: Division, right: Division | None
) -> tuple[Table, dict[Kind, Table]]:
    """The slot of each record, so that those of one octet of a block follow each other; and where they are."""
    block = warp // warps
    order = np.lexsort((warp, phase, octet, kind, block))
    slot = np.empty(len(order), np.int64)
    blocks = len(sparse.octets)
    number = np.bincount(block, minlength=blocks)
    slot[order] = np.arange(len(order)) - np.repeat(np.cumsum(number) - number, number)
    found = {}
    for name in {KINDS[n] for n in np.unique(kind)}:
        own = ((right if name == "right" else None) or sparse).octets
        table = np.zeros((blocks, max(1, own[:, 1].max()), 2), np.int32)
        table[:, :, 0] = END
        mine = kind == KINDS.index(name)
        at = block[mine], octet[mine] - own[block[mine], 0]
        np.minimum.at(table[:, :, 0], at, slot[mine])
        np.add.at(table[:, :, 1], at, 1)
        table[table[:, :, 1] == 0] = 0
        found[name] = table
    return slot, found


def _spread(ranges: Table) -> Table:
    """All numbers of ranges [n, 2] of first and count."""
    first, count = ranges.T.astype(np.int64)
    return np.arange(count.sum()) - np.repeat(count.cumsum() - count - first, count)
