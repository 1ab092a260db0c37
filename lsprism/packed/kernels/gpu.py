"""Products of 1 to 8 tokens with groups of sparse matrices, on a CUDA device of sm_80 or later; see streams.cu.

All thread blocks of a launch run at once, one on each multiprocessor: blocks wait for the right factors of all others.
A group belongs to one CUDA stream at a time, since its launches write to the same scratch memory.
"""

import ctypes
import logging
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from lsprism.packed.kernels.build import BuildError
from lsprism.packed.kernels.driver import Kernel, load_driver
from lsprism.packed.kernels.group import MOST_MEMBERS, MOST_TOKENS, Group
from lsprism.packed.kernels.nvrtc import compile_cached, load_nvrtc
from lsprism.packed.kernels.streams import LANES, OCTET, SLOTS, panel_width

SOURCE, UNPACK_SOURCE = (Path(__file__).with_name(name) for name in ("streams.cu", "unpack.cu"))
OLDEST = (8, 0)  # compute capability
WARPS, DEPTH = 12, 4  # of a thread block; steps that a warp loads ahead
TOKENS = (1, 2, 4, MOST_TOKENS)  # that there is a kernel for
_POINTERS = (
    "steps", "work", "records", "starts", "octets", "parts", "slots", "left_slots", "rows", "scales", "left_scales",
    "bias", "x", "y", "partial", "counters", "right_octets", "right_parts", "right_slots", "right_scales",
    "right_partial", "arrived",
)  # fmt: skip
_NUMBERS = (
    "tokens", "columns", "panel", "panels", "panels_held", "reach", "rank", "left_reach", "most", "right_most", "x_at",
)  # fmt: skip

logger = logging.getLogger("lsprism.packed.kernels")


class Arguments(ctypes.Structure):
    """`Group` in streams.cu."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in _POINTERS),
        ("members", ctypes.c_int * (MOST_MEMBERS + 1)),
        *((name, ctypes.c_int) for name in _NUMBERS),
    ]


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


def kernel_options(tokens: int, half: bool, int8: bool) -> dict[str, int]:
    """Macros of streams.cu."""
    size = ctypes.sizeof(Arguments)
    return {
        "TOKENS": tokens, "WARPS": WARPS, "DEPTH": DEPTH, "HALF": int(half), "INT8": int(int8), "ARGUMENT_BYTES": size
    }  # fmt: skip


@cache
def _kernel(device: torch.device, tokens: int, half: bool, int8: bool, unpack: bool = False) -> Kernel:
    major, minor = torch.cuda.get_device_capability(device)
    source, name = (UNPACK_SOURCE, "unpack_group") if unpack else (SOURCE, "multiply_group")
    cubin = compile_cached(source, f"sm_{major}{minor}", kernel_options(tokens, half, int8))
    return Kernel(cubin, name, device)


def multiply_group(group: Group, x: Tensor) -> list[Tensor]:
    """x [tokens, columns], contiguous, of the group's dtype -> [tokens, rows] of each member."""
    if len(x) > MOST_TOKENS:
        raise ValueError(f"{len(x)} tokens, of at most {MOST_TOKENS}")
    tokens = next(n for n in TOKENS if n >= len(x))
    kernel = _kernel(x.device, tokens, group.dtype is torch.float16, group.int8)
    sizes = fit_shared(group, tokens, kernel.shared)
    if sizes is None:  # half of the tokens need half of the memory
        parts = [multiply_group(group, part) for part in x.split((len(x) + 1) // 2)]
        return [torch.cat(member) for member in zip(*parts, strict=True)]
    y = x.new_empty(sum(group.rows) * len(x))
    arguments = fill_arguments(group, x, y, *sizes[:2])
    kernel.launch(group.blocks, group.warps * LANES, sizes[2], arguments, x.device)
    members = y.split([rows * len(x) for rows in group.rows])
    return [member.view(len(x), rows) for member, rows in zip(members, group.rows, strict=True)]


def unpack_group(group: Group) -> Tensor:
    """The sparse matrices of all members, dense: [rows of all, columns]."""
    out = torch.zeros(sum(group.rows), group.columns, dtype=group.dtype, device=group.steps.device)
    kernel = _kernel(out.device, 1, group.dtype is torch.float16, group.int8, unpack=True)
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


def fill_arguments(group: Group, x: Tensor, y: Tensor, held: int, x_at: int) -> Arguments:
    """What the kernel is started with."""
    tensors = {"steps": group.steps, "starts": group.starts, "x": x, "y": y, **group.tables, **group.scratch}
    pointers = [tensors[name].data_ptr() if name in tensors else None for name in _POINTERS]
    firsts = [sum(group.rows[:n]) for n in range(len(group.rows))]
    firsts += [sum(group.rows)] * (MOST_MEMBERS + 1 - len(firsts))
    most = [group.tables[name].shape[1] if name in group.tables else 0 for name in ("slots", "right_slots")]
    numbers = (
        len(x), group.columns, panel_width(group.columns), group.panels, held, group.reach, group.rank,
        group.left_reach, *most, x_at,
    )  # fmt: skip
    return Arguments(*pointers, (ctypes.c_int * len(firsts))(*firsts), *numbers)
