"""2:4 sparsity on GPUs with sparse tensor cores, by PyTorch's semi-structured sparse tensors.

Both formats store the kept values row by row, so the values are shared and not stored twice. The tensor's metadata
takes additional memory: 1 bit per entry, as much as the bitmap.
"""

import logging
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from lsprism.packed.formats import Sparse, get_shape

ROWS, COLUMNS = 32, 64  # the shape must be multiples of these, as required by PyTorch's backends
LARGE = 1 << 23  # entries: for smaller matrices, unpacking the matrix temporarily was faster

logger = logging.getLogger("lsprism.packed.kernels")


def is_two_four(form: Sparse) -> bool:
    """Whether exactly two of every four consecutive entries are kept, with a dtype and shape for tensor cores."""
    rows, columns = get_shape(form)
    fits = form.scales is None and form.dtype in (torch.float16, torch.bfloat16)
    if not fits or rows % ROWS or columns % COLUMNS or 2 * form.kept != rows * columns:
        return False
    two = torch.tensor([n.bit_count() == (n & 15).bit_count() + 2 == 4 for n in range(256)], device=form.bitmap.device)
    return bool(two[form.bitmap.int()].all())


def to_semi_structured(form: Sparse, dense: Tensor) -> Tensor | None:
    """A semi-structured tensor [rows, columns] to multiply many tokens by; None if the GPU or PyTorch cannot.

    `dense`: the unpacked matrix. The values of `form` are moved into the memory of the returned tensor.
    """
    try:
        with torch.inference_mode(False), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The PyTorch API of SparseSemiStructuredTensor")
            # A stored zero belongs to the mask, but the library derives the mask from the non-zeros.
            filled = dense.masked_fill(form.unpack_mask() & (dense == 0), 1)
            made = torch.sparse.to_sparse_semi_structured(filled)
            assert made.packed is not None
            values = made.packed.flatten()[: form.kept]
            if not bool(((values == form.values) | (form.values == 0)).all()):
                return None  # this version of the library uses another order
            values.copy_(form.values)
            F.linear(dense.new_zeros(COLUMNS, dense.shape[1]), made)
            form.values.data = values
    except (RuntimeError, ValueError) as error:
        logger.info("2:4 matrices are unpacked for multiplication: %s", error)
        return None
    return made
