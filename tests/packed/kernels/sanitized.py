"""Products of every format, and whole blocks, with buffers of exact size; run with a preloaded sanitizer runtime."""

import sys
from itertools import product

import torch

from lsprism.packed.formats import Dense, LowRank, Sparse, SparseLowRank
from lsprism.packed.int8 import to_int8
from lsprism.packed.kernels.build import load_library
from lsprism.packed.kernels.cpu import CpuPacked, PackedBlock

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
SHAPES = ((1, 1, 1), (3, 31, 2), (9, 33, 33), (70, 576, 30), (5, 7, 1), (2, 64, 64))  # rows, columns, rank
HEADS = ((1, 1, 2), (3, 1, 6), (4, 2, 34), (8, 2, 64))  # query heads, key heads, width


def sparse_of(rows: int, columns: int, density: float, dtype: torch.dtype) -> Sparse:
    mask = torch.rand(rows, columns) <= density if density else torch.zeros(rows, columns, dtype=torch.bool)
    return Sparse.pack(torch.randn(rows, columns).to(dtype), mask)


def products(kernels) -> None:
    for dtype, (rows, columns, rank), density in product(DTYPES, SHAPES, (0.0, 0.1, 0.5, 1.0)):
        sparse = sparse_of(rows, columns, density, dtype)
        factors = LowRank(torch.randn(rows, rank).to(dtype), torch.randn(rank, columns).to(dtype))
        both, dense = SparseLowRank(sparse, factors), Dense(torch.randn(rows, columns).to(dtype))
        for form in (sparse, factors, both, dense, to_int8(both), to_int8(sparse), to_int8(factors)):
            packed = CpuPacked(kernels, form, torch.randn(rows).to(dtype))
            for tokens in (1, 2, 3, 8, 11):
                packed.multiply(kernels, torch.randn(tokens, columns).to(dtype))
        for form in (sparse, to_int8(sparse)):
            assert torch.equal(CpuPacked(kernels, form, None).unpack(kernels, 0, rows), form.to_dense())


def blocks(kernels) -> None:
    hidden, wide = 37, 45
    for dtype, (heads, key_heads, width), int8 in product(DTYPES, HEADS, (False, True)):
        shapes = [(heads * width, hidden), *[(key_heads * width, hidden)] * 2, (hidden, heads * width)]
        forms = [sparse_of(*shape, 0.5, dtype) for shape in [*shapes, (wide, hidden), (wide, hidden), (hidden, wide)]]
        layers = [CpuPacked(kernels, to_int8(form) if int8 else form, None) for form in forms]
        norms = [torch.rand(n).to(dtype) for n in (hidden, hidden, width, width)]
        block = PackedBlock(layers, norms, (heads, key_heads, width), (1e-6, width**-0.5))
        x, turn = torch.randn(1, 1, hidden).to(dtype), torch.rand(2, width).to(dtype)
        for tokens in (1, 5, 70):
            query, key, value = block.compute_qkv(kernels, x, turn[0], turn[1])
            keys, values = (torch.cat([one] * tokens, dim=2) for one in (key, value))
            assert block.compute_output(kernels, x, query, keys, values).isfinite().all()


def main(level: str) -> None:
    kernels = load_library(level, sanitize=True)
    torch.manual_seed(0)
    products(kernels)
    blocks(kernels)
    sys.stdout.write("clean\n")


if __name__ == "__main__":
    main(sys.argv[1])
