"""A warp of streams.cu, lane by lane: the same tables, bit positions and registers, with the fragments of
mma.m16n8k16 as the PTX manual lays them out."""

import torch
from torch import Tensor

from lsprism.packed.kernels.group import Group
from lsprism.packed.kernels.streams import LANES, OCTET, SLOTS, panel_width

LANE = torch.arange(LANES)
ROW, CLASS = LANE // 4, LANE % 4


def multiply(group: Group, x: Tensor) -> list[Tensor]:
    """x [tokens, columns] -> [tokens, rows] of each member; sums in float64."""
    tokens, tables = len(x), group.tables
    factors = "left_slots" in tables
    phases = 2 * group.panels + 1 if factors else group.panels
    sums = [
        torch.full((group.slot_count, OCTET, tokens), float("nan"), dtype=torch.float64) for _ in range(group.blocks)
    ]
    partial = torch.full(
        (len(tables["rows"]) // OCTET + group.blocks, OCTET, tokens), float("nan"), dtype=torch.float64
    )
    seen, inner = torch.zeros(len(group.steps), dtype=torch.int32), None
    at = [[int(record), int(first)] for record, first, *_ in tables["work"].tolist()]
    for phase in range(phases):
        panel = phase // 2 if factors else phase
        if panel == group.panels:
            inner = collect(group, sums)
            entries = lay_out(inner, 0, group.rank, group.left_reach)
        else:
            width = panel_width(group.columns)
            entries = lay_out(x, panel * width, min((panel + 1) * width, group.columns), group.reach)
        for warp, position in enumerate(at):
            run_phase(group, phase, position, sums[warp // group.warps], entries, seen)
    assert (seen == 1).all(), "each step is read once"
    rows, y = sum(group.rows), torch.full((tokens, sum(group.rows)), float("nan"), dtype=torch.float64)
    scales = tables.get("scales", torch.ones(rows))
    left_scales = tables.get("left_scales", torch.ones(rows))
    bias = tables.get("bias", torch.zeros(rows))
    for block in range(group.blocks):
        first, count = tables["octets"][block].tolist()
        for n in range(count):
            row = tables["rows"][(first + n) * OCTET : (first + n + 1) * OCTET].long()
            total = add_up(sums[block], tables["slots"][block, n]) * scales[row][:, None]
            if factors:
                total += add_up(sums[block], tables["left_slots"][block, n]) * left_scales[row][:, None]
            partial[first + n + block] = total
    for octet, (first, count) in enumerate(tables["parts"].tolist()):
        row = tables["rows"][octet * OCTET : (octet + 1) * OCTET].long()
        total = partial[octet + first : octet + first + count].sum(0)
        y[:, row[row >= 0]] = (total + bias[row][:, None])[row >= 0].T
    assert not y.isnan().any(), "each row is written"
    return list(y.split(group.rows, dim=1))


def collect(group: Group, sums: list[Tensor]) -> Tensor:
    """R x [tokens, rank], rounded as the kernel does."""
    tables = group.tables
    partial = torch.full((group.rank // OCTET + group.blocks, *sums[0].shape[1:]), float("nan"), dtype=torch.float64)
    for block, (first, count) in enumerate(tables["right_octets"].tolist()):
        for n in range(count):
            partial[first + n + block] = add_up(sums[block], tables["right_slots"][block, n])
    found = torch.cat(
        [
            partial[o + first : o + first + count].sum(0)
            for o, (first, count) in enumerate(tables["right_parts"].tolist())
        ]
    )
    scales = tables.get("right_scales", torch.ones(group.rank))
    return (found * scales[:, None]).to(group.dtype).T


def add_up(sums: Tensor, slots: Tensor) -> Tensor:
    first, count = slots.tolist()
    return sums[first : first + count].sum(0)


def lay_out(x: Tensor, first: int, last: int, reach: int) -> Tensor:
    """[reach * 4, tokens], as in shared memory: zeros behind the last column."""
    entries = torch.zeros(reach * 4, len(x), dtype=torch.float64)
    entries[: last - first] = x[:, first:last].T
    return entries


def run_phase(group: Group, phase: int, position: list[int], sums: Tensor, entries: Tensor, seen: Tensor) -> None:
    """The records of one warp; `position` is its next record and its next step."""
    while True:
        steps, slot, when, _ = group.tables["records"][position[0]].tolist()
        if when != phase:
            return
        place = group.starts[position[0]].to(torch.int64)
        tokens = entries.shape[1]
        even, odd = (torch.zeros(tokens, LANES, 4, dtype=torch.float64) for _ in range(2))
        for n in range(position[1], position[1] + steps):
            seen[n] += 1
            values, gaps = read_step(group, group.steps[n])
            after = place[:, None] + torch.cumsum(gaps + 1, 1)
            taken = entries[(after - 1) * 4 + CLASS[:, None]]  # [lanes, slots, tokens]
            place = after[:, -1]
            for half in (slice(0, 8), slice(8, 16)):
                a, b = values[:, half].view(LANES, 4, 2), taken[:, half]
                for token in range(tokens):
                    one = b[:, :, token].reshape(LANES, 4, 2)
                    even[token] += mma(a, one[:, [0, 2]])
                    odd[token] += mma(a, one[:, [1, 3]])
        for lane in range(LANES):
            row = lane >> 2
            if lane & 3 == row >> 1:
                sums[slot, row] = even[:, lane, row & 1] + odd[:, lane, 2 + (row & 1)]
        position[0] += 1
        position[1] += steps


def read_step(group: Group, step: Tensor) -> tuple[Tensor, Tensor]:
    """Values [lanes, slots] and gaps, by the loads of a lane."""
    dtype = torch.int8 if group.int8 else group.dtype
    pieces = [step[:512], *([] if group.int8 else [step[512:1024]])]
    values = torch.cat([piece.clone().view(dtype).view(LANES, -1) for piece in pieces], 1).double()
    words = step[-128:].clone().view(torch.int32).long() & 0xFFFFFFFF
    gaps = torch.stack([words >> (2 * (slot // 4) + 8 * (slot % 4)) & 3 for slot in range(SLOTS)], 1)
    return values, gaps


def mma(a: Tensor, b: Tensor) -> Tensor:
    """Registers a [lanes, 4, 2] and b [lanes, 2, 2] -> c [lanes, 4] of mma.m16n8k16."""
    left, right = torch.zeros(16, 16, dtype=torch.float64), torch.zeros(16, 8, dtype=torch.float64)
    for register, (row, column) in enumerate(((0, 0), (8, 0), (0, 8), (8, 8))):
        for pair in range(2):
            left[ROW + row, 2 * CLASS + column + pair] = a[:, register, pair]
    for register, row in enumerate((0, 8)):
        for pair in range(2):
            right[2 * CLASS + row + pair, ROW] = b[:, register, pair]
    found = left @ right
    return torch.stack([found[ROW + row, 2 * CLASS + column] for row in (0, 8) for column in (0, 1)], 1)
