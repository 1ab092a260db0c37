"""Sparse matrices that read the same x, such as those of queries, keys and values, made ready for one launch.

Their low-rank factors, if they have any, are a part of the same launch: first the thread blocks multiply x by all right
factors and tell each other, then come the sparse matrices, and at last the left factors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from lsprism.packed.formats import LowRank, Sparse, SparseLowRank, get_shape, unpack_mask
from lsprism.packed.kernels.launch_tables import Kind, Launch, Phase, plan_launch
from lsprism.packed.kernels.streams import (
    OCTET,
    Panel,
    Streams,
    pack_streams,
    place_at_steps,
)

MOST_MEMBERS = 4
MOST_TOKENS = 8


@dataclass
class Group:
    """What streams.cu reads; all tables are int32 tensors on the device."""

    blocks: int
    warps: int
    dtype: torch.dtype  # of x and y
    columns: int
    rows: list[int]  # of each member
    int8: bool
    panels: int
    reach: int  # places of x that lanes read in a panel
    rank: int  # right factors, stacked, each filled up to whole octets; 0: none
    left_reach: int
    slot_count: int  # slots of shared memory
    steps: Tensor  # uint8
    starts: Tensor  # uint16 [records, lanes]
    tables: dict[str, Tensor]  # as they are named in streams.cu; absent: null
    phases: list[Phase]
    octets: list[int]  # of each member
    scratch: dict[str, Tensor] = field(default_factory=dict)  # written by the kernel

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        tensors = [self.steps, self.starts, *self.tables.values(), *self.scratch.values()]
        return sum(tensor.nbytes for tensor in tensors)


Packable = Sparse | SparseLowRank


def build_group(forms: Sequence[Packable], biases: Sequence[Tensor | None], blocks: int, warps: int) -> Group:
    """A group of forms with the same columns and dtypes, for `blocks` thread blocks of `warps` warps."""
    sparse = [form if isinstance(form, Sparse) else form.sparse for form in forms]
    factors = [form.low_rank if isinstance(form, SparseLowRank) and form.rank else None for form in forms]
    columns, device = sparse[0].columns, sparse[0].bitmap.device
    packed = [pack_streams(_spread(part), part.unpack_mask()) for part in sparse]
    stacked: dict[Kind, list[tuple[Panel, Tensor]]] = {"sparse": _stack([(one.panels, 0) for one in packed])}
    if any(factors):
        right = [part and pack_streams(part.right) for part in factors]
        stacked["right"] = _stack([(one.panels, 0) for one in right if one])
        octets = [len(one.order) // OCTET if one else 0 for one in right]
        origins = [sum(octets[:n]) * OCTET // 4 for n in range(len(octets))]
        stacked["left"] = _stack(
            [([_left_panel(part, one)], origin) for part, one, origin in zip(factors, packed, origins, strict=True)]
        )
    phases = _order_phases(stacked)
    planned = [Phase(kind, one.counts.cpu().numpy()) for kind, one, _ in phases]
    launch = plan_launch(planned, blocks, warps)
    steps = torch.cat([panel.steps for _, panel, _ in phases])
    places = torch.cat([place_at_steps(panel.advances, panel.counts) + origin for _, panel, origin in phases])
    reaches = {kind: max(_reach(*one) for one in panels) for kind, panels in stacked.items()}
    begins = torch.from_numpy(launch.begins).to(device)
    starts = torch.where(begins[:, None] >= 0, places[begins.clamp(min=0)], 0)
    steps = steps[torch.from_numpy(launch.sources).to(device)]
    rows = [get_shape(form)[0] for form in forms]
    group = Group(
        blocks, warps, forms[0].dtype, columns, rows, sparse[0].scales is not None, len(packed[0].panels),
        max(reaches["sparse"], reaches.get("right", 0)), sum(octets) * OCTET if any(factors) else 0,
        reaches.get("left", 0), launch.slot_count, steps, starts.to(torch.int32).to(torch.uint16),
        {name: torch.from_numpy(np.ascontiguousarray(table)).to(device) for name, table in _tables(launch).items()},
        planned, [len(one.order) // OCTET for one in packed],
    )  # fmt: skip
    first = list(accumulate(rows, initial=0))
    group.tables["rows"] = torch.cat(
        [torch.where(one.order >= 0, one.order + at, -1).int() for one, at in zip(packed, first, strict=False)]
    )
    group.tables |= _vectors(sparse, factors, biases, rows)
    sums = OCTET * MOST_TOKENS
    total = sum(group.octets)
    group.scratch = {
        "partial": torch.zeros(total + blocks, sums, device=device),
        "counters": torch.zeros(total, dtype=torch.int32, device=device),
        "right_partial": torch.zeros(group.rank // OCTET + blocks, sums, device=device),
        "arrived": torch.zeros(1, dtype=torch.int64, device=device),
    }
    return group


def streams_of(group: Group, n: int) -> Streams:
    """The sparse matrix of member n."""
    sources = plan_launch(group.phases, group.blocks, group.warps).sources
    where = np.empty_like(sources)
    where[sources] = np.arange(len(sources))
    octets = slice(sum(group.octets[:n]), sum(group.octets[: n + 1]))
    panels, offset = [], 0
    for phase in group.phases:
        if phase.kind == "sparse":
            borders = offset + np.append(0, phase.counts.cumsum())
            own = torch.from_numpy(where[borders[octets.start] : borders[octets.stop]]).to(group.steps.device)
            counts = torch.from_numpy(phase.counts[octets]).to(group.steps.device)
            panels.append(Panel(group.steps[own], counts))
        offset += int(phase.counts.sum())
    order = group.tables["rows"][octets.start * OCTET : octets.stop * OCTET]
    order = torch.where(order >= 0, order - sum(group.rows[:n]), -1)
    dtype = torch.int8 if group.int8 else group.dtype
    return Streams(panels, order, group.rows[n], group.columns, dtype)


def _spread(part: Sparse) -> Tensor:
    """The values of a sparse matrix at their places, int8 where they are stored so."""
    mask = unpack_mask(part.bitmap, part.columns)
    return torch.zeros(mask.shape, dtype=part.values.dtype, device=mask.device).masked_scatter_(mask, part.values)


def _left_panel(part: LowRank | None, sparse: Streams) -> Panel:
    """Left factors in the row order of the sparse matrix; steps of zeros where there are none."""
    if part is not None:
        return pack_streams(part.left, order=sparse.order).panels[0]
    octets, panel = len(sparse.order) // OCTET, sparse.panels[0]
    return Panel(panel.steps.new_zeros(octets, panel.steps.shape[1]), panel.counts.new_ones(octets))


def _stack(members: list[tuple[list[Panel], int]]) -> list[tuple[Panel, Tensor]]:
    """Panel by panel, the streams of all members one after the other, and the place where the lanes of each step's
    octet begin."""
    found = []
    for n in range(len(members[0][0])):
        parts = [(panels[n], origin) for panels, origin in members]
        origin = [torch.full((len(one.steps), 1), at, dtype=torch.int32, device=one.steps.device) for one, at in parts]
        steps, counts = (torch.cat([getattr(one, name) for one, _ in parts]) for name in ("steps", "counts"))
        found.append((Panel(steps, counts), torch.cat(origin)))
    return found


def _order_phases(stacked: dict[Kind, list[tuple[Panel, Tensor]]]) -> list[tuple[Kind, Panel, Tensor]]:
    """As streams.cu runs them."""
    phases = []
    for n in range(len(stacked["sparse"])):
        phases += [(kind, *stacked[kind][n]) for kind in ("right", "sparse") if kind in stacked]
    return phases + [("left", *one) for one in stacked.get("left", [])]


def _reach(panel: Panel, origin: Tensor) -> int:
    """How many places of x the lanes of a panel read, or skip."""
    advances = panel.advances
    return int((place_at_steps(advances, panel.counts) + advances + origin).max())


def _tables(launch: Launch) -> dict[str, np.ndarray]:
    found = {
        "work": launch.work, "records": launch.records, "octets": launch.matrices.octets,
        "parts": launch.matrices.parts, "slots": launch.slots["sparse"],
    }  # fmt: skip
    if launch.right is not None:
        found |= {
            "left_slots": launch.slots["left"], "right_octets": launch.right.octets,
            "right_parts": launch.right.parts, "right_slots": launch.slots["right"],
        }  # fmt: skip
    return found


def _vectors(
    sparse: list[Sparse], factors: list[LowRank | None], biases: Sequence[Tensor | None], rows: list[int]
) -> dict[str, Tensor]:
    """Scales and biases of all members, float32."""
    device = sparse[0].bitmap.device

    def join(parts: list[Tensor | None], lengths: list[int], absent: float) -> Tensor:
        filled = [
            torch.full((length,), absent, device=device) if part is None else part.detach().float()
            for part, length in zip(parts, lengths, strict=True)
        ]
        return torch.cat(
            [torch.nn.functional.pad(one, (0, n - len(one))) for one, n in zip(filled, lengths, strict=True)]
        )

    found = {}
    if any(bias is not None for bias in biases):
        found["bias"] = join(list(biases), rows, 0.0)
    if sparse[0].scales is not None:
        found["scales"] = join([part.scales for part in sparse], rows, 1.0)
        if any(factors):
            found["left_scales"] = join([part.left_scales if part else None for part in factors], rows, 1.0)
            ranks = [-(-part.right.shape[0] // OCTET) * OCTET if part else 0 for part in factors]
            found["right_scales"] = join([part.right_scales if part else None for part in factors], ranks, 1.0)
    return found
