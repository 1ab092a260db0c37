"""How a compressed matrix is held: sparse, low-rank, sparse + low-rank, or dense where those would be larger.

Each form says which matrix [rows, columns] it stands for (`dense`), what it keeps (`kept`, parameters) and what it
stores (`nbytes`). Bytes of a sparse matrix: 1 bit a place for the bitmap, padded to whole bytes per row, and its packed
non-zeros; in bf16 at 50 % that is 9/16 of dense.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lsprism.reports import FormName

_BITS = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)


def bitmap_columns(columns: int) -> int:
    """Bytes per bitmap row."""
    return (columns + 7) // 8


def pack_mask(mask: Tensor) -> Tensor:
    """bool [rows, columns] -> uint8 [rows, ceil(columns / 8)]; the lowest bit is the leftmost column."""
    rows, columns = mask.shape
    padded = torch.zeros(rows, bitmap_columns(columns) * 8, dtype=torch.uint8, device=mask.device)
    padded[:, :columns] = mask
    return (padded.view(rows, -1, 8) * _BITS.to(mask.device)).sum(-1, dtype=torch.uint8)


def unpack_mask(bitmap: Tensor, columns: int) -> Tensor:
    """uint8 [rows, ceil(columns / 8)] -> bool [rows, columns]."""
    bits = bitmap.unsqueeze(-1).bitwise_and(_BITS.to(bitmap.device)) != 0
    return bits.view(bitmap.shape[0], -1)[:, :columns]


@dataclass(frozen=True)
class Sparse:
    """Non-zeros packed row by row, left to right, and a bitmap of their places."""

    name: ClassVar[FormName] = "sparse"
    values: Tensor  # [non-zeros]
    bitmap: Tensor  # uint8 [rows, ceil(columns / 8)]
    columns: int

    @classmethod
    def pack(cls, weight: Tensor, mask: Tensor) -> "Sparse":
        """Keep `weight` [rows, columns] where `mask` is true; a kept entry that is zero still counts as kept."""
        return cls(weight[mask], pack_mask(mask), weight.shape[1])

    def dense(self) -> Tensor:
        mask = unpack_mask(self.bitmap, self.columns)
        return torch.zeros(mask.shape, dtype=self.values.dtype, device=mask.device).masked_scatter_(mask, self.values)

    @property
    def kept(self) -> int:
        return self.values.numel()

    @property
    def rank(self) -> int:
        return 0

    def tensors(self) -> dict[str, Tensor]:
        return {"weight": self.values, "bitmap": self.bitmap}


@dataclass(frozen=True)
class LowRank:
    """W ~ left @ right."""

    name: ClassVar[FormName] = "low_rank"
    left: Tensor  # [rows, rank]
    right: Tensor  # [rank, columns]

    def dense(self) -> Tensor:
        return (self.left.float() @ self.right.float()).to(self.left.dtype)

    @property
    def kept(self) -> int:
        return self.left.numel() + self.right.numel()

    @property
    def rank(self) -> int:
        return self.left.shape[1]

    def tensors(self) -> dict[str, Tensor]:
        return {"weight": self.left, "right": self.right}


@dataclass(frozen=True)
class SparseLowRank:
    """W ~ sparse + left @ right."""

    name: ClassVar[FormName] = "sparse_low_rank"
    sparse: Sparse
    low_rank: LowRank

    def dense(self) -> Tensor:
        product = self.low_rank.left.float() @ self.low_rank.right.float()
        return (self.sparse.dense().float() + product).to(self.sparse.values.dtype)

    @property
    def kept(self) -> int:
        return self.sparse.kept + self.low_rank.kept

    @property
    def rank(self) -> int:
        return self.low_rank.rank

    def tensors(self) -> dict[str, Tensor]:
        return {**self.sparse.tensors(), "left": self.low_rank.left, "right": self.low_rank.right}


@dataclass(frozen=True)
class Dense:
    """The matrix as it was: what would be larger compressed stays dense."""

    name: ClassVar[FormName] = "dense"
    weight: Tensor  # [rows, columns]

    def dense(self) -> Tensor:
        return self.weight

    @property
    def kept(self) -> int:
        return self.weight.numel()

    @property
    def rank(self) -> int:
        return 0

    def tensors(self) -> dict[str, Tensor]:
        return {"weight": self.weight}


Form = Sparse | LowRank | SparseLowRank | Dense


def nbytes(form: Form) -> int:
    """Bytes of the tensors that the form stores; the same in memory and on disk."""
    return sum(tensor.nbytes for tensor in form.tensors().values())


def form_shape(form: Form) -> tuple[int, int]:
    """(rows, columns) of the matrix that the form stands for."""
    match form:
        case Sparse():
            return form.bitmap.shape[0], form.columns
        case LowRank():
            return form.left.shape[0], form.right.shape[1]
        case SparseLowRank():
            return form_shape(form.sparse)
        case Dense():
            return form.weight.shape[0], form.weight.shape[1]
