"""Packed weight formats: sparse, low-rank, sparse + low-rank, and dense where those would be larger.

Each format converts back to the matrix [rows, columns] (`dense`) and knows the number of kept parameters (`kept`) and
stored bytes (`count_bytes`). A sparse matrix stores a bitmap of 1 bit per entry, padded to whole bytes per row, and its
packed non-zeros: in bfloat16 at 50 % sparsity, 9/16 of the dense size. Values have the model's dtype, or are int8 with
a scale of that dtype per row (see int8.py): then 50 % sparsity takes 5 bits per entry.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lsprism.records.model_plan import FormName, ValuesName

_BITS = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)


def count_bitmap_columns(columns: int) -> int:
    """Bytes per bitmap row."""
    return (columns + 7) // 8


def pack_mask(mask: Tensor) -> Tensor:
    """bool [rows, columns] -> uint8 [rows, ceil(columns / 8)]; the lowest bit is the leftmost column."""
    rows, columns = mask.shape
    padded = torch.zeros(rows, count_bitmap_columns(columns) * 8, dtype=torch.uint8, device=mask.device)
    padded[:, :columns] = mask
    return (padded.view(rows, -1, 8) * _BITS.to(mask.device)).sum(-1, dtype=torch.uint8)


def unpack_mask(bitmap: Tensor, columns: int) -> Tensor:
    """uint8 [rows, ceil(columns / 8)] -> bool [rows, columns]."""
    bits = bitmap.unsqueeze(-1).bitwise_and(_BITS.to(bitmap.device)) != 0
    return bits.view(bitmap.shape[0], -1)[:, :columns]


def dequantize(values: Tensor, scales: Tensor | None) -> Tensor:
    """Dequantize [rows, n] to the model's dtype: int8 values times the scales [rows]; `values` if there are none."""
    return values if scales is None else (values.float() * scales.float().unsqueeze(1)).to(scales.dtype)


@dataclass(frozen=True)
class Sparse:
    """Non-zeros packed row by row, left to right, and a bitmap of their positions."""

    name: ClassVar[FormName] = "sparse"
    values: Tensor  # [non-zeros]
    bitmap: Tensor  # uint8 [rows, ceil(columns / 8)]
    columns: int
    scales: Tensor | None = None  # [rows] if the values are int8

    @classmethod
    def pack(cls, weight: Tensor, mask: Tensor) -> "Sparse":
        """Keep `weight` [rows, columns] where `mask` is true. A zero inside the mask is stored and counts as kept."""
        return cls(weight[mask], pack_mask(mask), weight.shape[1])

    def unpack_mask(self) -> Tensor:
        """bool [rows, columns]: the positions of the values."""
        return unpack_mask(self.bitmap, self.columns)

    def to_dense(self) -> Tensor:
        mask = self.unpack_mask()
        full = torch.zeros(mask.shape, dtype=self.values.dtype, device=mask.device).masked_scatter_(mask, self.values)
        return dequantize(full, self.scales)

    @property
    def dtype(self) -> torch.dtype:
        return (self.values if self.scales is None else self.scales).dtype

    @property
    def kept(self) -> int:
        return self.values.numel()

    @property
    def rank(self) -> int:
        return 0

    def get_tensors(self) -> dict[str, Tensor]:
        return {"weight": self.values, "bitmap": self.bitmap, **_filter_present(scales=self.scales)}


@dataclass(frozen=True)
class LowRank:
    """W ~ left @ right."""

    name: ClassVar[FormName] = "low_rank"
    left: Tensor  # [rows, rank]
    right: Tensor  # [rank, columns]
    left_scales: Tensor | None = None  # [rows] if the values are int8
    right_scales: Tensor | None = None  # [rank]

    def get_factors(self) -> tuple[Tensor, Tensor]:
        """left and right, dequantized to the model's dtype."""
        return dequantize(self.left, self.left_scales), dequantize(self.right, self.right_scales)

    def compute_product(self) -> Tensor:
        """left @ right, float32."""
        left, right = self.get_factors()
        return left.float() @ right.float()

    def to_dense(self) -> Tensor:
        return self.compute_product().to(self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        return (self.left if self.left_scales is None else self.left_scales).dtype

    @property
    def kept(self) -> int:
        return self.left.numel() + self.right.numel()

    @property
    def rank(self) -> int:
        return self.left.shape[1]

    def get_tensors(self) -> dict[str, Tensor]:
        scales = _filter_present(scales=self.left_scales, right_scales=self.right_scales)
        return {"weight": self.left, "right": self.right, **scales}


@dataclass(frozen=True)
class SparseLowRank:
    """W ~ sparse + left @ right."""

    name: ClassVar[FormName] = "sparse_low_rank"
    sparse: Sparse
    low_rank: LowRank

    def to_dense(self) -> Tensor:
        return self.low_rank.compute_product().add_(self.sparse.to_dense()).to(self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        return self.sparse.dtype

    @property
    def kept(self) -> int:
        return self.sparse.kept + self.low_rank.kept

    @property
    def rank(self) -> int:
        return self.low_rank.rank

    def get_tensors(self) -> dict[str, Tensor]:
        part = self.low_rank
        scales = _filter_present(left_scales=part.left_scales, right_scales=part.right_scales)
        return {**self.sparse.get_tensors(), "left": part.left, "right": part.right, **scales}


@dataclass(frozen=True)
class Dense:
    """An uncompressed matrix, where packing would not save space."""

    name: ClassVar[FormName] = "dense"
    weight: Tensor  # [rows, columns]

    def to_dense(self) -> Tensor:
        return self.weight

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    @property
    def kept(self) -> int:
        return self.weight.numel()

    @property
    def rank(self) -> int:
        return 0

    def get_tensors(self) -> dict[str, Tensor]:
        return {"weight": self.weight}


PackedWeight = Sparse | LowRank | SparseLowRank | Dense


def packed_from_tensors(name: FormName, tensors: Mapping[str, Tensor | None], columns: int) -> PackedWeight:
    """The packed weight of `tensors`, named as by its `tensors()`; KeyError if one is missing."""
    held = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    scales, factor_scales = held.get("scales"), (held.get("left_scales"), held.get("right_scales"))
    match name:
        case "sparse":
            return Sparse(held["weight"], held["bitmap"], columns, scales)
        case "low_rank":
            return LowRank(held["weight"], held["right"], scales, held.get("right_scales"))
        case "sparse_low_rank":
            sparse = Sparse(held["weight"], held["bitmap"], columns, scales)
            return SparseLowRank(sparse, LowRank(held["left"], held["right"], *factor_scales))
        case _:
            return Dense(held["weight"])


def get_value_type(form: PackedWeight) -> ValuesName:
    """The value type of the packed weight."""
    return "int8" if "scales" in form.get_tensors() else "float"


def _filter_present(**tensors: Tensor | None) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def count_bytes(form: PackedWeight) -> int:
    """Bytes of the stored tensors; the same in memory and on disk."""
    return sum(tensor.nbytes for tensor in form.get_tensors().values())


def get_shape(form: PackedWeight) -> tuple[int, int]:
    """(rows, columns) of the matrix that the packed weight represents."""
    match form:
        case Sparse():
            return form.bitmap.shape[0], form.columns
        case LowRank():
            return form.left.shape[0], form.right.shape[1]
        case SparseLowRank():
            return get_shape(form.sparse)
        case Dense():
            return form.weight.shape[0], form.weight.shape[1]
