"""Chooses the implementation of a product: C++ kernels on CPUs, Triton kernels on GPUs, else the reference path."""

import ctypes
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from lsprism.errors import SpecError
from lsprism.packed.formats import PackedWeight, Sparse, SparseLowRank, get_value_type
from lsprism.packed.kernels import reference
from lsprism.packed.kernels.autotune import SMALL, make_key, select_fastest
from lsprism.packed.kernels.build import BuildError, list_usable_levels, load_library
from lsprism.packed.kernels.cpu import CpuPacked, is_readable
from lsprism.packed.kernels.tiles import multiply_by_tiles
from lsprism.records.model_plan import LayerBudget

if TYPE_CHECKING:
    from lsprism.packed.kernels import cuda, streamed

    OnGpu = cuda.CudaPacked | streamed.Packed

FEW_TOKENS = 8  # with more tokens, the matrix is unpacked tile by tile and multiplied by PyTorch
FEW_CONVERTED = 48  # the same if tiles also have to be converted to another dtype

logger = logging.getLogger("lsprism.packed.kernels")
_chosen = "auto"
_thread = threading.local()


def set_compute_dtype(dtype: torch.dtype | None) -> torch.dtype | None:
    """Set the dtype of products over many tokens on this thread (None: that of the weights); returns the previous one.

    Used by compute.py.
    """
    before = getattr(_thread, "compute_dtype", None)
    _thread.compute_dtype = dtype
    return before


@contextmanager
def use_kernel(kernel: str) -> Iterator[None]:
    """Inside the `with`, the whole process uses this backend: "auto", "reference", or a level of build.LEVELS.

    Raises SpecError if it is not available on this machine.
    """
    global _chosen
    if kernel not in ("auto", "reference"):
        levels = list_usable_levels()
        if kernel not in levels:
            raise SpecError(
                f"The kernels {kernel!r} are not available on this CPU.",
                f"Choose from auto, reference, {', '.join(levels)}.",
            )
        try:
            load_library(kernel)
        except BuildError as error:
            raise SpecError(f"The kernels {kernel!r} cannot be built: {error}.", "Choose auto or reference.") from None
    before, _chosen = _chosen, kernel
    try:
        yield
    finally:
        _chosen = before


def load_kernels() -> ctypes.CDLL | None:
    """The library of the selected backend; None: the reference path."""
    if _chosen == "reference":
        return None
    return _load_best() if _chosen == "auto" else load_library(_chosen)


@cache
def _load_best() -> ctypes.CDLL | None:
    try:
        return load_library(list_usable_levels()[-1])
    except BuildError as error:
        logger.warning("Falling back to the PyTorch reference kernels (slower): %s.", error)
        return None


def is_on_gpu(form: PackedWeight, bias: Tensor | None) -> "cuda.CudaPacked | None":
    """The packed weight for the Triton kernels: with a sparse part, on a CUDA device. None: use the reference path."""
    parts = [*form.get_tensors().values(), *([] if bias is None else [bias])]
    if not isinstance(form, Sparse | SparseLowRank) or not all(part.is_cuda and part.is_contiguous() for part in parts):
        return None
    try:
        from lsprism.packed.kernels import cuda
    except ImportError:
        _log_missing_triton()
        return None
    return cuda.CudaPacked(form, bias)


def on_recent_gpu(forms: Sequence[PackedWeight], biases: Sequence[Tensor | None]) -> "list[streamed.Packed] | None":
    """Packed weights that read the same x, for one launch; None unless a recent GPU and its kernels are there."""
    if _chosen == "reference":
        return None
    from lsprism.packed.kernels.streamed import pack_layers

    return pack_layers(forms, biases)


@cache
def _log_missing_triton() -> None:
    logger.warning("Falling back to the PyTorch reference kernels (slower): Triton is not installed.")


def get_active_kernel() -> str:
    """The selected backend, as named by `use_kernel`."""
    return _chosen


def _is_kernel_faster(native: ctypes.CDLL, packed: CpuPacked, form: PackedWeight, bias: Tensor | None) -> bool:
    """Whether the kernels are faster than the reference path for one token."""
    if packed.rows * packed.columns < SMALL:
        return True
    x = torch.zeros(1, packed.columns, dtype=packed.dtype)
    level = list_usable_levels()[-1]
    ways: dict[str, Callable[[], object]] = {
        level: lambda: packed.multiply(native, x),
        "reference": lambda: reference.compute_linear(x, form, bias),
    }
    budget = LayerBudget(kept=form.kept, rank=form.rank)
    key = make_key(form.name, (packed.rows, packed.columns), budget, get_value_type(form), packed.dtype)
    return select_fastest(key, ways) == level


class PreparedMatmul:
    """A packed weight and its bias, prepared for multiplication."""

    def __init__(self, form: PackedWeight, bias: Tensor | None, streams: "streamed.Packed | None" = None) -> None:
        self.form, self.bias = form, bias
        native = load_kernels() if is_readable(form, bias) else None
        packed = None if native is None else CpuPacked(native, form, bias)
        self.packed = (
            packed
            if native and packed and (_chosen != "auto" or _is_kernel_faster(native, packed, form, bias))
            else None
        )
        self.streams = streams  # holds the sparse part in the GPU's own format, and can restore the module's
        self._card: cuda.CudaPacked | None = None
        if streams is None and _chosen != "reference":
            self._card = is_on_gpu(form, bias)
        self.tried = streams is not None  # whether the kernels of recent GPUs were asked for
        self._tensors = [*form.get_tensors().items(), *([] if bias is None else [("bias", bias)])]
        self._dtype = form.dtype
        self._address = self._tensors[0][1].data_ptr()

    def release(self, form: PackedWeight) -> None:
        """From now on, `form` is what the module has: without the values and the bitmap, which `streams` holds."""
        self.form = form
        self._tensors = [*form.get_tensors().items(), *([] if self.bias is None else [("bias", self.bias)])]
        self._address = self._tensors[0][1].data_ptr()

    def _whole(self) -> PackedWeight:
        """The packed weight with all values."""
        if self.streams is None or not isinstance(self.form, Sparse | SparseLowRank):
            return self.form
        part = self.form if isinstance(self.form, Sparse) else self.form.sparse
        values, bitmap = self.streams.restore()
        part = replace(part, values=values, bitmap=bitmap)
        return part if isinstance(self.form, Sparse) else replace(self.form, sparse=part)

    def is_valid(self, parameters: Mapping[str, Tensor | None], buffers: Mapping[str, Tensor | None]) -> bool:
        """Whether the module's tensors are still the ones that this product was prepared from."""
        for name, tensor in self._tensors:
            if parameters.get(name) is not tensor and buffers.get(name) is not tensor:
                return False
        return self._tensors[0][1].data_ptr() == self._address

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., columns] -> [..., rows]."""
        card, packed = self.streams or self._card, self.packed
        if card is not None and self._on_card(card, x):
            return self._multiply_on_gpu(card, x)
        native = load_kernels() if packed and x.is_cpu and self._is_supported(x, packed.columns) else None
        if native is None or packed is None:
            return reference.compute_linear(x, self._whole(), self.bias)
        compute = getattr(_thread, "compute_dtype", None) or x.dtype
        few = FEW_TOKENS if compute is x.dtype else FEW_CONVERTED
        if x.numel() <= few * packed.columns:
            return packed.multiply(native, x.contiguous())
        if packed.sparse:
            return self._multiply_by_tiles(native, packed, x, compute)
        return reference.compute_linear(x, self.form, self.bias)

    def _is_supported(self, x: Tensor, columns: int) -> bool:
        """Whether x needs no gradient and has the expected shape and dtype."""
        return type(x) is Tensor and x.dtype is self._dtype and not x.requires_grad and x.shape[-1] == columns

    def _on_card(self, card: "OnGpu", x: Tensor) -> bool:
        there = _chosen != "reference" and x.device == card.device
        return there and x.numel() > 0 and self._is_supported(x, card.columns)

    def _multiply_on_gpu(self, card: "OnGpu", x: Tensor) -> Tensor:
        """Multiply a few tokens directly by the packed weight, and many by the unpacked matrix."""
        if x.numel() <= card.few * card.columns:
            return card.multiply(x.contiguous())
        return self._add_factors(card.multiply_many(x), x)

    def _multiply_by_tiles(self, native: ctypes.CDLL, packed: CpuPacked, x: Tensor, compute: torch.dtype) -> Tensor:
        """Multiply in the dtype `compute`, unpacking some rows at a time so that the dense matrix never exists."""

        def unpack_rows(first: int, last: int, tile: Tensor) -> None:
            if tile.dtype in (packed.dtype, torch.float32):
                packed.unpack(native, first, last, tile)
            else:
                tile.copy_(packed.unpack(native, first, last))

        if compute is x.dtype:
            return self._add_factors(multiply_by_tiles(x, packed.rows, unpack_rows, self.bias, compute), x)
        factors = self.form.low_rank.get_factors() if isinstance(self.form, SparseLowRank) else None
        return multiply_by_tiles(x, packed.rows, unpack_rows, self.bias, compute, factors)

    def _add_factors(self, y: Tensor, x: Tensor) -> Tensor:
        """y plus the low-rank part's product with x, if there is one."""
        if isinstance(self.form, SparseLowRank):
            left, right = self.form.low_rank.get_factors()
            y += F.linear(F.linear(x, right), left)
        return y
