"""Packed weights for the C++ kernels, which read the tensors of a module in place; only row offsets are computed."""

import ctypes

import torch
from torch import Tensor

from lsprism.errors import DamagedError
from lsprism.packed.formats import Dense, LowRank, PackedWeight, Sparse, SparseLowRank, get_shape

DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


_PARTS = ("values", "bitmap", "offsets", "left", "right", "bias", "scales", "left_scales", "right_scales")


class _LayerStruct(ctypes.Structure):
    """Mirrors Layer in row_kernels.h."""

    _fields_ = [(name, ctypes.c_int64) for name in ("rows", "columns", "rank", "nonzeros")] + [
        (name, ctypes.c_void_p) for name in _PARTS
    ]


class CpuPacked:
    """One packed weight and its bias for the kernels; `is_readable` tests whether they are supported."""

    def __init__(self, kernels: ctypes.CDLL, form: PackedWeight, bias: Tensor | None) -> None:
        sparse, factors, dense = _split_parts(form)
        self.rows, self.columns = get_shape(form)
        self.sparse = sparse is not None
        offsets = _compute_offsets(kernels, sparse) if sparse else None
        values, bitmap = (sparse.values, sparse.bitmap) if sparse else (dense, None)
        left, right = (factors.left, factors.right) if factors else (None, None)
        factor_scales = (factors.left_scales, factors.right_scales) if factors else (None, None)
        read = (values, bitmap, offsets, left, right, bias, sparse.scales if sparse else None, *factor_scales)
        # Keeps the memory alive, even if the module replaces the tensors.
        self._read = [None if tensor is None else tensor.detach() for tensor in read]
        addresses = [None if tensor is None else tensor.data_ptr() for tensor in self._read]
        self.layer = _LayerStruct(self.rows, self.columns, form.rank, sparse.kept if sparse else 0, *addresses)
        self._layer = ctypes.addressof(self.layer)
        self.dtype = form.dtype

    def multiply(self, kernels: ctypes.CDLL, x: Tensor) -> Tensor:
        """x [..., columns], contiguous, in the weight's dtype -> [..., rows]."""
        y = x.new_empty((*x.shape[:-1], self.rows))
        tokens, threads = x.numel() // self.columns, torch.get_num_threads()
        kernels.prism_multiply(self._layer, x.data_ptr(), y.data_ptr(), tokens, DTYPES[self.dtype], threads)
        return y

    def unpack(self, kernels: ctypes.CDLL, first: int, last: int, out: Tensor | None = None) -> Tensor:
        """Unpack rows `first` to `last` of the sparse part: [last - first, columns], in the weight's dtype.

        `out`: a contiguous tensor to write to, in that dtype or float32.
        """
        if out is None:
            out = torch.empty(last - first, self.columns, dtype=self.dtype)
        dtypes = DTYPES[self.dtype], DTYPES[out.dtype]
        kernels.prism_unpack(self._layer, first, last, out.data_ptr(), *dtypes, torch.get_num_threads())
        return out


class PackedBlock:
    """A decoder block of the Llama family for the kernels; see block.h.

    layers: query, key, value, output, gate, up, down.
    norms: norm weights before attention, before the MLP, of queries, and of keys; the last two None if absent.
    heads: number of query heads, number of key heads, head dimension.
    numbers: epsilon of the norms, and the scaling of attention scores.
    """

    def __init__(
        self,
        layers: list[CpuPacked],
        norms: list[Tensor | None],
        heads: tuple[int, int, int],
        numbers: tuple[float, float],
    ) -> None:
        self._read = layers, [None if norm is None else norm.detach() for norm in norms]
        addresses = [None if norm is None else norm.data_ptr() for norm in norms]
        parts = (_LayerStruct * 7)(*(one.layer for one in layers)), (ctypes.c_void_p * 4)(*addresses)
        self._block = _BlockStruct(*parts, *heads, *numbers)
        self._address = ctypes.addressof(self._block)
        self._heads, self._dtype = heads, DTYPES[layers[0].dtype]

    def compute_qkv(
        self, kernels: ctypes.CDLL, x: Tensor, cosine: Tensor, sine: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x [1, 1, hidden] -> queries [heads, width], key and value [1, key heads, 1, width]."""
        heads, key_heads, width = self._heads
        query = x.new_empty(heads, width)
        key, value = x.new_empty(1, key_heads, 1, width), x.new_empty(1, key_heads, 1, width)
        kernels.prism_begin_block(
            self._address,
            x.data_ptr(),
            cosine.data_ptr(),
            sine.data_ptr(),
            query.data_ptr(),
            key.data_ptr(),
            value.data_ptr(),
            self._dtype,
            torch.get_num_threads(),
        )
        return query, key, value

    def compute_output(self, kernels: ctypes.CDLL, x: Tensor, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """keys, values [1, key heads, tokens, width], including this token's -> the block's output for x."""
        keys, values = _convert_past(keys, x), _convert_past(values, x)
        _, key_head, key_token, _ = keys.stride()
        _, value_head, value_token, _ = values.stride()
        past = _PastStruct(
            keys.data_ptr(), values.data_ptr(), keys.shape[2], key_head, key_token, value_head, value_token
        )
        y = torch.empty_like(x)
        kernels.prism_end_block(
            self._address,
            x.data_ptr(),
            query.data_ptr(),
            ctypes.addressof(past),
            y.data_ptr(),
            self._dtype,
            torch.get_num_threads(),
        )
        return y


def _convert_past(past: Tensor, x: Tensor) -> Tensor:
    """`past`, converted if the cache has another dtype or memory layout than the block."""
    return past if past.dtype is x.dtype and past.stride(3) == 1 else past.to(x.dtype).contiguous()


class _BlockStruct(ctypes.Structure):
    """Mirrors Block in block.h."""

    _fields_ = [
        ("layers", _LayerStruct * 7),
        ("norms", ctypes.c_void_p * 4),
        ("heads", ctypes.c_int64),
        ("key_heads", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("epsilon", ctypes.c_double),
        ("scaling", ctypes.c_double),
    ]


class _PastStruct(ctypes.Structure):
    """Mirrors Past in block.h."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("keys", "values")] + [
        (name, ctypes.c_int64) for name in ("tokens", "key_head", "key_token", "value_head", "value_token")
    ]


def is_readable(form: PackedWeight, bias: Tensor | None) -> bool:
    """Whether the kernels can read these tensors in place: on the CPU, contiguous, with one supported dtype."""
    parts = [*form.get_tensors().values(), *([] if bias is None else [bias])]
    dtypes = {tensor.dtype for tensor in parts} - {torch.uint8, torch.int8}
    plain = all(tensor.device.type == "cpu" and tensor.is_contiguous() for tensor in parts)
    return plain and len(dtypes) == 1 and dtypes <= DTYPES.keys() and min(get_shape(form)) > 0


def _split_parts(form: PackedWeight) -> tuple[Sparse | None, LowRank | None, Tensor | None]:
    match form:
        case SparseLowRank():
            return form.sparse, form.low_rank, None
        case Sparse():
            return form, None, None
        case LowRank():
            return None, form, None
        case Dense():
            return None, None, form.weight


def _compute_offsets(kernels: ctypes.CDLL, sparse: Sparse) -> Tensor:
    """[rows + 1] offsets of each row's values. Raises DamagedError if the bitmap does not match the values.

    This protects the kernels, which do not check bounds, from reading past the end of the values.
    """
    rows = sparse.bitmap.shape[0]
    offsets = torch.empty(rows + 1, dtype=torch.int64)
    kernels.prism_offsets(sparse.bitmap.data_ptr(), rows, sparse.columns, offsets.data_ptr())
    if offsets[-1] != sparse.kept:
        raise DamagedError(
            f"A bitmap has {offsets[-1]} bits set, but {sparse.kept} values are stored.", "Compress the model again."
        )
    return offsets
