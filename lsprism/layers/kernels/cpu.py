"""Forms as the C++ kernels read them. Nothing is copied: the kernels read the tensors that a module holds; only where
each row's values begin is worked out beside them."""

import ctypes

import torch
from torch import Tensor

from lsprism.errors import DamagedError
from lsprism.layers.forms import Dense, Form, LowRank, Sparse, SparseLowRank, form_shape

GROUP = 4  # layers that one call takes at most; as kGroup in kernels.cpp
DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


class Packed:
    """What `Layer` in kernels.cpp says of one form and its bias; see `readable` for what they may be."""

    def __init__(self, kernels: ctypes.CDLL, form: Form, bias: Tensor | None) -> None:
        sparse, factors, dense = _parts(form)
        self.rows, self.columns = form_shape(form)
        self.sparse = sparse is not None
        offsets = _offsets(kernels, sparse) if sparse else None
        values, bitmap = (sparse.values, sparse.bitmap) if sparse else (dense, None)
        left, right = (factors.left, factors.right) if factors else (None, None)
        self._read = (values, bitmap, offsets, left, right, bias)  # alive as long as their addresses are used
        sizes = [self.rows, self.columns, form.rank, sparse.kept if sparse else 0]
        addresses = [0 if tensor is None else tensor.data_ptr() for tensor in self._read]
        self._words = torch.tensor(sizes + addresses, dtype=torch.int64)
        self._layer = self._words.data_ptr()
        self._dtype = (left if values is None else values).dtype

    def multiply(self, kernels: ctypes.CDLL, x: Tensor) -> Tensor:
        """x [..., columns], contiguous, of the form's dtype -> [..., rows]."""
        y = x.new_empty((*x.shape[:-1], self.rows))
        tokens, threads = x.numel() // self.columns, torch.get_num_threads()
        kernels.prism_multiply(self._layer, 1, x.data_ptr(), y.data_ptr(), tokens, DTYPES[self._dtype], threads)
        return y

    def unpack(self, kernels: ctypes.CDLL, first: int, last: int) -> Tensor:
        """Rows `first` to `last` of the sparse part, dense: [last - first, columns]."""
        out = torch.empty(last - first, self.columns, dtype=self._dtype)
        kernels.prism_unpack(self._layer, first, last, out.data_ptr(), DTYPES[self._dtype], torch.get_num_threads())
        return out


class Together:
    """Layers of one input, such as query, key and value: one call, one parallel region for all of them."""

    def __init__(self, layers: list[Packed]) -> None:
        assert 0 < len(layers) <= GROUP and len({(one.columns, one._dtype) for one in layers}) == 1
        self._layers = layers
        self._words = torch.cat([one._words for one in layers])

    def multiply(self, kernels: ctypes.CDLL, x: Tensor) -> list[Tensor]:
        """x [..., columns], contiguous -> one [..., rows] for each layer."""
        first, before = self._layers[0], x.shape[:-1]
        tokens, threads = x.numel() // first.columns, torch.get_num_threads()
        sizes = [tokens * one.rows for one in self._layers]
        y = x.new_empty(sum(sizes))
        layers, count = self._words.data_ptr(), len(sizes)
        kernels.prism_multiply(layers, count, x.data_ptr(), y.data_ptr(), tokens, DTYPES[first._dtype], threads)
        return [part.view(*before, one.rows) for part, one in zip(y.split(sizes), self._layers, strict=True)]


def readable(form: Form, bias: Tensor | None) -> bool:
    """The kernels can read these tensors where they lie: on the CPU, contiguous, of one dtype."""
    parts = [*form.tensors().values(), *([] if bias is None else [bias])]
    dtypes = {tensor.dtype for tensor in parts} - {torch.uint8}
    plain = all(tensor.device.type == "cpu" and tensor.is_contiguous() for tensor in parts)
    return plain and len(dtypes) == 1 and dtypes <= DTYPES.keys() and min(form_shape(form)) > 0


def _parts(form: Form) -> tuple[Sparse | None, LowRank | None, Tensor | None]:
    match form:
        case SparseLowRank():
            return form.sparse, form.low_rank, None
        case Sparse():
            return form, None, None
        case LowRank():
            return None, form, None
        case Dense():
            return None, None, form.weight


def _offsets(kernels: ctypes.CDLL, sparse: Sparse) -> Tensor:
    """[rows + 1]: where each row's values begin. The kernels trust them, so they must end where the values end."""
    rows = sparse.bitmap.shape[0]
    offsets = torch.empty(rows + 1, dtype=torch.int64)
    kernels.prism_offsets(sparse.bitmap.data_ptr(), rows, sparse.columns, offsets.data_ptr())
    if offsets[-1] != sparse.kept:
        raise DamagedError(
            f"A bitmap marks {offsets[-1]} places, but {sparse.kept} values are stored.", "Compress the model again."
        )
    return offsets
