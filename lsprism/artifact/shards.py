"""Safetensors files: how tensors are grouped into files, their exact sizes, and atomic writes."""

import errno
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lsprism.errors import DiskError

Layout = dict[str, tuple[torch.dtype, tuple[int, ...]]]  # tensor name -> dtype and shape

OUTSIDE_SHARD_BYTES = 128 * 2**20  # size of the files for tensors outside the blocks; bounds the memory of a write
# In the order in which safetensors sorts them.
_CODES = {torch.int64: "I64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_CODES |= {torch.int8: "I8", torch.uint8: "U8"}
_ORDER = list(_CODES)


def count_tensor_bytes(layout: Layout) -> int:
    return sum(math.prod(shape) * dtype.itemsize for dtype, shape in layout.values())


def compute_file_bytes(layout: Layout) -> int:
    """Exact size of the safetensors file with `layout`: 8 bytes, a JSON header padded to 8, the tensors."""
    header: dict = {"__metadata__": {"format": "pt"}}
    offset = 0
    # The writer sorts by dtype, then by name; the length of the header depends on that order.
    for name, (dtype, shape) in sorted(layout.items(), key=lambda item: (_ORDER.index(item[1][0]), item[0])):
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-length // 8) * 8 + offset


def split_outside(layout: Layout) -> list[Layout]:
    """Group the tensors outside the blocks into files of at most OUTSIDE_SHARD_BYTES, or one tensor each."""
    groups: list[Layout] = []
    for name, entry in layout.items():
        if not groups or count_tensor_bytes({**groups[-1], name: entry}) > OUTSIDE_SHARD_BYTES:
            groups.append({})
        groups[-1][name] = entry
    return groups


def format_shard_name(number: int, of: int) -> str:
    """`number` counts from 1."""
    return f"model-{number:05d}-of-{of:05d}.safetensors"


def write_atomic(path: Path, text: str) -> None:
    """Write a text file atomically: complete, or unchanged if the process dies. Raises DiskError."""
    half = path.with_name(path.name + ".part")
    with translate_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        half.write_text(text, encoding="utf-8")
        os.replace(half, path)


@contextmanager
def translate_disk_errors(path: Path) -> Iterator[None]:
    """Turn a failed write into a DiskError with a next step."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        reason = "the disk is full" if full else getattr(error, "strerror", None) or str(error)
        remedy = "Free some space" if full else "Check the disk and the folder's permissions"
        hint = f"{remedy}, then run the same command again; add --resume to continue a compression."
        raise DiskError(f"{path} cannot be written: {reason}.", hint) from None


def write_shard(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write to a temporary file, then rename: after a kill at any time, the file is complete or absent."""
    half = path.with_suffix(".tmp")
    with translate_disk_errors(path):
        try:
            save_file(tensors, half, metadata={"format": "pt", **(metadata or {})})
            half.chmod(path.parent.stat().st_mode & 0o666)  # safetensors writes 0600; use the folder's permissions
            os.replace(half, path)
        except BaseException:
            half.unlink(missing_ok=True)  # frees the space on a full disk
            raise


def is_whole(path: Path, layout: Layout) -> bool:
    """Whether the file is complete and holds exactly the tensors of `layout`, by name and shape.

    Values are not read.
    """
    try:
        with safe_open(path, framework="pt") as opened:  # compares the header with the length of the file
            shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
            return shapes == {name: tuple(shape) for name, (_, shape) in layout.items()}
    except (OSError, SafetensorError):
        return False
