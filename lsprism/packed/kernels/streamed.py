"""Packed weights on a CUDA device of sm_80 or later: in the format of streams.py, multiplied by gpu.py.

Layers that read the same x are multiplied together: the first one that is called computes all of them, the others take
what it has left for them.
"""

import logging
import threading
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from lsprism.packed.formats import PackedWeight, Sparse, SparseLowRank, pack_mask
from lsprism.packed.kernels import gpu
from lsprism.packed.kernels.check import is_verified
from lsprism.packed.kernels.group import MOST_MEMBERS, MOST_TOKENS, Group, Packable, build_group, streams_of
from lsprism.packed.kernels.semi_structured import is_two_four
from lsprism.packed.kernels.streams import unpack_streams

logger = logging.getLogger("lsprism.packed.kernels")


class Shared:
    """A group, and the outputs that its members have not taken yet."""

    def __init__(self, group: Group, biases: Sequence[Tensor | None]) -> None:
        self.group, self._biases = group, biases
        self._lock = threading.Lock()
        self._x: Tensor | None = None
        self._waiting: dict[int, Tensor] = {}

    def take(self, n: int, x: Tensor) -> Tensor:
        """Output of member n for x [..., columns]."""
        with self._lock:
            if self._x is not x or n not in self._waiting:
                self._x, self._waiting = x, dict(enumerate(self._multiply(x)))
            found = self._waiting.pop(n)
            if not self._waiting:
                self._x = None
            return found

    def _multiply(self, x: Tensor) -> list[Tensor]:
        tokens = x.reshape(-1, self.group.columns).contiguous()
        if len(tokens) <= MOST_TOKENS:
            found = gpu.multiply_group(self.group, tokens)
        else:
            dense = gpu.unpack_group(self.group)
            parts = zip(dense.split(self.group.rows), self._biases, strict=True)
            found = [F.linear(tokens, weight, bias) for weight, bias in parts]
        return [y.view(*x.shape[:-1], y.shape[1]) for y in found]


class Packed:
    """One layer of a group; the same methods as cuda.CudaPacked."""

    few = MOST_TOKENS

    def __init__(self, shared: Shared, n: int, zeros: Tensor) -> None:
        self._shared, self.n = shared, n
        self._zeros = zeros  # which values are zero, since streams do not distinguish them from absent ones
        self.rows, self.columns = shared.group.rows[n], shared.group.columns
        self.device = shared.group.steps.device

    @property
    def group(self) -> Group:
        return self._shared.group

    def multiply(self, x: Tensor) -> Tensor:
        """x [..., columns], a few tokens -> [..., rows], with the low-rank part and the bias."""
        return self._shared.take(self.n, x)

    def multiply_many(self, x: Tensor) -> Tensor:
        """x [..., columns], many tokens -> [..., rows], with the bias, but without the low-rank part."""
        return self._shared.take(self.n, x)

    def restore(self) -> tuple[Tensor, Tensor]:
        """Packed values and the bitmap, as the layer was made of."""
        dense = unpack_streams(streams_of(self.group, self.n))
        mask = dense.view(torch.int8 if dense.itemsize == 1 else torch.int16) != 0
        mask.view(-1)[self._zeros.to(mask.device)] = True
        return dense[mask], pack_mask(mask)


def pack_layers(forms: Sequence[PackedWeight], biases: Sequence[Tensor | None]) -> list[Packed] | None:
    """The layers as one group; None where these kernels are not for them or for their device."""
    packable = [form for form in forms if isinstance(form, Sparse | SparseLowRank)]
    if len(packable) != len(forms):
        return None
    sparse = [form if isinstance(form, Sparse) else form.sparse for form in packable]
    parts = [
        *(t for form in forms for t in form.get_tensors().values()),
        *(bias for bias in biases if bias is not None),
    ]
    same = {(part.columns, part.values.dtype, form.dtype) for part, form in zip(sparse, forms, strict=True)}
    fits = len(forms) <= MOST_MEMBERS and len(same) == 1
    if not fits or len({part.device for part in parts}) != 1 or not parts[0].is_cuda:
        return None
    two_four = any(isinstance(form, Sparse) and is_two_four(form) for form in forms)  # has kernels of its own
    if two_four or forms[0].dtype not in (torch.bfloat16, torch.float16):
        return None
    return _pack(packable, sparse, biases, parts[0].device) if is_usable(parts[0].device) else None


@cache
def is_usable(device: torch.device) -> bool:
    """Whether these kernels run on a device, and are correct and not slower than Triton's there; logs if not."""
    obstacle = gpu.find_obstacle(device)
    if obstacle is None and not is_verified(device):
        obstacle = "they did not pass the check on this GPU"
    if obstacle is not None:
        logger.warning("Sparse layers use the Triton kernels, not the faster ones for recent GPUs: %s.", obstacle)
    return obstacle is None


def _pack(
    forms: Sequence[Packable], sparse: Sequence[Sparse], biases: Sequence[Tensor | None], device: torch.device
) -> list[Packed] | None:
    group = build_group(forms, biases, gpu.count_blocks(device), gpu.WARPS)
    if gpu.fit_shared(group, 1, gpu.shared_bytes(device)) is None:
        return None
    shared = Shared(group, biases)
    return [Packed(shared, n, _zeros_kept(part)) for n, part in enumerate(sparse)]


def _zeros_kept(part: Sparse) -> Tensor:
    """int64, on the CPU: row * columns + column of each kept entry whose bits are zero."""
    bits = part.values.detach().view(torch.int8 if part.values.itemsize == 1 else torch.int16)
    if bool((bits != 0).all()):
        return torch.empty(0, dtype=torch.int64)
    return part.unpack_mask().flatten().nonzero().flatten()[bits == 0].cpu()
