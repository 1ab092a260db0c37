"""2:4 on a card with sparse tensor cores: torch's semi-structured tensor over the very values of a form.

Both hold the kept values row by row. So the values move into that tensor's memory and are not held twice; what says
where they lie comes on top, 1 bit a place, as much as the bitmap.
"""

import logging
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from lsprism.layers.forms import Sparse, form_shape

ROWS, COLUMNS = 32, 64  # both are to be multiples, which serves every library behind it
LARGE = 1 << 23  # places: with fewer, unpacking the matrix for a moment was the faster way

logger = logging.getLogger("lsprism.layers.kernels")


def is_two_four(form: Sparse) -> bool:
    """Exactly two of any four neighbours in a row are kept, in numbers and a shape that tensor cores take."""
    rows, columns = form_shape(form)
    fits = form.scales is None and form.dtype in (torch.float16, torch.bfloat16)
    if not fits or rows % ROWS or columns % COLUMNS or 2 * form.kept != rows * columns:
        return False
    two = torch.tensor([n.bit_count() == (n & 15).bit_count() + 2 == 4 for n in range(256)], device=form.bitmap.device)
    return bool(two[form.bitmap.int()].all())


def semi_structured(form: Sparse, dense: Tensor) -> Tensor | None:
    """A tensor [rows, columns] to multiply many tokens by; None where this card or its libraries know no such thing.

    `dense` is the form multiplied out. From then on the form's values are a part of what is returned.
    """
    try:
        with torch.inference_mode(False), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The PyTorch API of SparseSemiStructuredTensor")
            # A kept zero is a place like any other, but the library would not see it.
            filled = dense.masked_fill(form.mask() & (dense == 0), 1)
            made = torch.sparse.to_sparse_semi_structured(filled)
            assert made.packed is not None
            values = made.packed.flatten()[: form.kept]
            if not bool(((values == form.values) | (form.values == 0)).all()):
                return None  # in another order
            values.copy_(form.values)
            F.linear(dense.new_zeros(COLUMNS, dense.shape[1]), made)
            form.values.data = values
    except (RuntimeError, ValueError) as error:
        logger.info("2:4 matrices are multiplied out: %s", error)
        return None
    return made
