"""Products of every form with buffers that end where their values end; run under a preloaded sanitizer runtime."""

import sys

import torch

from lsprism.layers.forms import Dense, LowRank, Sparse, SparseLowRank
from lsprism.layers.int8 import to_int8
from lsprism.layers.kernels.build import library
from lsprism.layers.kernels.cpu import Packed


def main(level: str) -> None:
    kernels = library(level, sanitize=True)
    torch.manual_seed(0)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        for rows, columns, rank in ((1, 1, 1), (3, 31, 2), (9, 33, 33), (70, 576, 30), (5, 7, 1), (2, 64, 64)):
            for density in (0.0, 0.1, 0.5, 1.0):
                mask = torch.rand(rows, columns) <= density if density else torch.zeros(rows, columns, dtype=torch.bool)
                sparse = Sparse.pack(torch.randn(rows, columns).to(dtype), mask)
                factors = LowRank(torch.randn(rows, rank).to(dtype), torch.randn(rank, columns).to(dtype))
                dense = Dense(torch.randn(rows, columns).to(dtype))
                both = SparseLowRank(sparse, factors)
                for form in (sparse, factors, both, dense, to_int8(both), to_int8(sparse), to_int8(factors)):
                    packed = Packed(kernels, form, torch.randn(rows).to(dtype))
                    for tokens in (1, 2, 3, 8, 11):
                        packed.multiply(kernels, torch.randn(tokens, columns).to(dtype))
                for form in (sparse, to_int8(sparse)):
                    assert torch.equal(Packed(kernels, form, None).unpack(kernels, 0, rows), form.dense())
    sys.stdout.write("clean\n")


if __name__ == "__main__":
    main(sys.argv[1])
