"""Products of 1 to 8 tokens with groups of sparse matrices, on a CUDA device of sm_80 or later; see streams.cu.

All thread blocks of a launch run at once, one on each multiprocessor: blocks wait for the right factors of all others.
A group belongs to one CUDA stream at a time, since its launches write to the same scratch memory.
"""

import ctypes
import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from lsprism.packed.kernels.build import BuildError
from lsprism.packed.kernels.driver import Kernel, load_driver
from lsprism.packed.kernels.group import MOST_MEMBERS, MOST_TOKENS, Group
from lsprism.packed.kernels.nvrtc import compile_cached, load_nvrtc
from lsprism.packed.kernels.streams import LANES, OCTET, SLOTS, panel_width

SOURCE, UNPACK_SOURCE, ROTARY_SOURCE = (
    Path(__file__).with_name(name) for name in ("streams.cu", "unpack.cu", "rotary.cu")
)
OLDEST = (8, 0)  # compute capability
WARPS, DEPTH = 12, 4  # of a thread block; steps that a warp loads ahead
DEPTH_MANY = 3  # the same for 8 tokens, whose sums take half of the registers
TOKENS = (1, 2, 4, MOST_TOKENS)  # that there is a kernel for
_POINTERS = (
    "steps", "work", "records", "starts", "octets", "parts", "slots", "left_slots", "rows", "scales", "left_scales",
    "bias", "x", "y", "partial", "counters", "right_octets", "right_parts", "right_slots", "right_scales",
    "right_partial", "arrived", "norm", "residual",
)  # fmt: skip
_NUMBERS = (
    "tokens", "columns", "panel", "panels", "panels_held", "reach", "rank", "left_reach", "most", "right_most", "x_at",
    "gated",
)  # fmt: skip

logger = logging.getLogger("lsprism.packed.kernels")


class Arguments(ctypes.Structure):
    """`Group` in streams.cu."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in _POINTERS),
        ("members", ctypes.c_int * (MOST_MEMBERS + 1)),
        *((name, ctypes.c_int) for name in _NUMBERS),
        ("epsilon", ctypes.c_float),
    ]


class Rotary(ctypes.Structure):
    """`Rotary` in rotary.cu."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("query", "key", "cosine", "sine", "query_norm", "key_norm")),
        *((name, ctypes.c_void_p) for name in ("query_out", "key_out")),
        *((name, ctypes.c_int) for name in ("heads", "width")),
        ("epsilon", ctypes.c_float),
    ]


@dataclass(frozen=True)
class Around:
    """What else a launch computes: x is normalized first, or is silu(gate) * up; a residual is added to y."""

    norm: Tensor | None = None  # weight of an RMSNorm
    epsilon: float = 0.0
    gated: bool = False  # x holds gate and up [2, tokens, columns]
    residual: Tensor | None = None  # [tokens, rows]


NOTHING = Around()


@cache
def find_obstacle(device: torch.device) -> str | None:
    """Why these kernels cannot run on a device; None where they can."""
    if device.type != "cuda" or torch.version.cuda is None:
        return "it is not a CUDA device"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        return f"its compute capability {capability[0]}.{capability[1]} is below {OLDEST[0]}.{OLDEST[1]}"
    try:
        load_driver(), load_nvrtc()
        _kernel(device, 1, half=False, int8=False)
    except BuildError as error:
        return str(error)
    return None


def count_blocks(device: torch.device) -> int:
    """Thread blocks of a launch."""
    return torch.cuda.get_device_properties(device).multi_processor_count


def kernel_options(tokens: int, half: bool, int8: bool, around: bool = False) -> dict[str, int]:
    """Macros of streams.cu."""
    return {
        "TOKENS": tokens, "WARPS": WARPS, "DEPTH": min(DEPTH, DEPTH_MANY) if tokens == MOST_TOKENS else DEPTH,
        "HALF": int(half), "INT8": int(int8), "AROUND": int(around), "ARGUMENT_BYTES": ctypes.sizeof(Arguments),
    }  # fmt: skip


@cache
def _kernel(device: torch.device, tokens: int, half: bool, int8: bool, around: bool = False) -> Kernel:
    return _load(SOURCE, "multiply_group", device, kernel_options(tokens, half, int8, around))


@cache
def _unpack_kernel(device: torch.device, half: bool, int8: bool) -> Kernel:
    return _load(UNPACK_SOURCE, "unpack_group", device, kernel_options(1, half, int8))


@cache
def _rotary_kernel(device: torch.device, half: bool) -> Kernel:
    return _load(ROTARY_SOURCE, "rotate_heads", device, rotary_options(half))


def rotary_options(half: bool) -> dict[str, int]:
    """Macros of rotary.cu."""
    return {"HALF": int(half), "ARGUMENT_BYTES": ctypes.sizeof(Rotary)}


def _load(source: Path, name: str, device: torch.device, options: dict[str, int]) -> Kernel:
    major, minor = torch.cuda.get_device_capability(device)
    return Kernel(compile_cached(source, f"sm_{major}{minor}", options), name, device)


def multiply_group(group: Group, x: Tensor) -> list[Tensor]:
    """x [tokens, columns], contiguous, of the group's dtype -> [tokens, rows] of each member; at most 8 tokens."""
    y = launch_group(group, x, len(x))
    if y is None:  # half of the tokens need half of the shared memory
        parts = [multiply_group(group, part) for part in x.split((len(x) + 1) // 2)]
        return [torch.cat(member) for member in zip(*parts, strict=True)]
    return split_members(group, y, len(x))


def launch_group(group: Group, x: Tensor, tokens: int = 1, around: Around = NOTHING) -> Tensor | None:
    """Outputs of all members, one after the other; None if x does not fit shared memory. `around` is for one token."""
    takes = next(n for n in TOKENS if n >= tokens)
    kernel = _kernel(x.device, takes, group.dtype is torch.float16, group.int8, around is not NOTHING)
    sizes = fit_shared(group, takes, kernel.shared)
    if sizes is None:
        return None
    y = x.new_empty(sum(group.rows) * tokens)
    arguments = fill_arguments(group, x, y, *sizes[:2], around)
    kernel.launch(group.blocks, group.warps * LANES, sizes[2], arguments, x.device)
    return y


def split_members(group: Group, y: Tensor, tokens: int) -> list[Tensor]:
    """[tokens, rows] of each member."""
    members = y.split([rows * tokens for rows in group.rows])
    return [member.view(tokens, rows) for member, rows in zip(members, group.rows, strict=True)]


def rotate_heads(
    query: Tensor,
    key: Tensor,
    position: tuple[Tensor, Tensor],
    norms: tuple[Tensor | None, Tensor | None],
    epsilon: float,
) -> tuple[Tensor, Tensor]:
    """query [heads, width], key [key heads, width]; `position`: cosine and sine [width]; `norms`: RMSNorm weights."""
    arguments, found = rotary_arguments(query, key, position, norms, epsilon)
    kernel = _rotary_kernel(query.device, query.dtype is torch.float16)
    kernel.launch(len(query) + len(key), LANES, 0, arguments, query.device)
    return found


def rotary_arguments(
    query: Tensor,
    key: Tensor,
    position: tuple[Tensor, Tensor],
    norms: tuple[Tensor | None, Tensor | None],
    epsilon: float,
) -> tuple[Rotary, tuple[Tensor, Tensor]]:
    """What the kernel is started with, and what it writes to."""
    found = torch.empty_like(query), torch.empty_like(key)
    pointers = [None if tensor is None else tensor.data_ptr() for tensor in (query, key, *position, *norms, *found)]
    return Rotary(*pointers, len(query), query.shape[1], epsilon), found


def unpack_group(group: Group) -> Tensor:
    """The sparse matrices of all members, dense: [rows of all, columns]."""
    out = torch.zeros(sum(group.rows), group.columns, dtype=group.dtype, device=group.steps.device)
    kernel = _unpack_kernel(out.device, group.dtype is torch.float16, group.int8)
    kernel.launch(group.blocks, group.warps * LANES, 0, fill_arguments(group, out, out, 1, 0), out.device)
    return out


def shared_bytes(device: torch.device) -> int:
    """Shared memory that a thread block of the largest kernel can have."""
    return _kernel(device, MOST_TOKENS, half=False, int8=False).shared


def fit_shared(group: Group, tokens: int, limit: int) -> tuple[int, int, int] | None:
    """Panels of x that are held at once, where x begins in shared memory, and its bytes; None: x is too large."""
    place = 8 * tokens  # bytes
    x_at = max(group.slot_count * OCTET * tokens * 4, DEPTH * SLOTS * place)
    x_at = -(-x_at // 16) * 16
    for held in (group.panels, 1):
        total = x_at + max(held * group.reach, group.left_reach) * place
        if total <= limit:
            return held, x_at, total
    return None


def fill_arguments(group: Group, x: Tensor, y: Tensor, held: int, x_at: int, around: Around = NOTHING) -> Arguments:
    """What the kernel is started with."""
    tensors: dict[str, Tensor | None] = {
        "steps": group.steps, "starts": group.starts, "x": x, "y": y, "norm": around.norm, "residual": around.residual,
        **group.tables, **group.scratch,
    }  # fmt: skip
    pointers = [None if (tensor := tensors.get(name)) is None else tensor.data_ptr() for name in _POINTERS]
    tokens = y.numel() // sum(group.rows)
    firsts = [sum(group.rows[:n]) for n in range(len(group.rows))]
    firsts += [sum(group.rows)] * (MOST_MEMBERS + 1 - len(firsts))
    most = [group.tables[name].shape[1] if name in group.tables else 0 for name in ("slots", "right_slots")]
    numbers = (
        tokens, group.columns, panel_width(group.columns), group.panels, held, group.reach, group.rank,
        group.left_reach, *most, x_at, int(around.gated),
    )  # fmt: skip
    return Arguments(*pointers, (ctypes.c_int * len(firsts))(*firsts), *numbers, around.epsilon)
