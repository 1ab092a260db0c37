"""The GPU format gives back what was packed, whatever the mask looks like."""

import pytest
import torch

from lsprism.packed.kernels import streams
from lsprism.packed.kernels.streams import (
    LANES,
    OCTET,
    SLOTS,
    pack_streams,
    panel_width,
    place_at_steps,
    unpack_streams,
)

DTYPES = [torch.bfloat16, torch.float16, torch.int8]


def numbers(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    """Random, none of them zero."""
    found = (torch.randn(rows, columns) * 20).to(dtype)
    return torch.where(found == 0, torch.ones((), dtype=dtype), found)


def round_trip(matrix: torch.Tensor, mask: torch.Tensor) -> streams.Streams:
    packed = pack_streams(matrix, mask)
    found = unpack_streams(packed)
    assert found.dtype is matrix.dtype
    assert torch.equal(found, torch.where(mask, matrix, torch.zeros((), dtype=matrix.dtype)))
    assert sorted(packed.order[packed.order >= 0].tolist()) == list(range(len(matrix)))
    return packed


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (8, 64), (13, 101), (5, 3), (17, 258), (40, 1030)])
@pytest.mark.parametrize("density", [0.02, 0.3, 0.5, 0.9])
def test_a_random_matrix_comes_back(shape, density, dtype):
    torch.manual_seed(0)
    round_trip(numbers(*shape, dtype), torch.rand(shape) < density)


def test_empty_rows_and_full_rows_come_back():
    torch.manual_seed(1)
    mask = torch.rand(20, 90) < 0.5
    mask[3], mask[7], mask[19] = False, True, False
    round_trip(numbers(20, 90, torch.bfloat16), mask)
    round_trip(numbers(20, 90, torch.bfloat16), torch.zeros(20, 90, dtype=torch.bool))
    round_trip(numbers(20, 90, torch.bfloat16), torch.ones(20, 90, dtype=torch.bool))


@pytest.mark.parametrize("gap", [0, 1, 3, 4, 5, 7, 8, 9, 63, 200])
def test_long_gaps_come_back(gap):
    mask = torch.zeros(9, 4 * 500, dtype=torch.bool)
    mask[2, 4 * gap] = mask[2, 4 * (2 * gap + 1)] = mask[2, -1] = True  # of one stream, and one at the end of another
    round_trip(numbers(9, 2000, torch.float16), mask)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_panels_and_chunks_of_rows_come_back(monkeypatch, dtype):
    torch.manual_seed(2)
    monkeypatch.setattr(streams, "WIDEST_PANEL", 64)
    monkeypatch.setattr(streams, "_CHUNK", 16)
    packed = round_trip(numbers(43, 205, dtype), torch.rand(43, 205) < 0.5)
    assert len(packed.panels) == 4 and panel_width(205) == 52


def test_rows_are_sorted_by_length_and_octets_padded_to_steps():
    torch.manual_seed(3)
    mask = torch.rand(64, 400) < torch.rand(64, 1)
    packed = pack_streams(numbers(64, 400, torch.bfloat16), mask)
    counts = packed.panels[0].counts.tolist()
    assert counts == sorted(counts) and counts[0] < counts[-1]
    unsorted = pack_streams(numbers(64, 400, torch.bfloat16), mask, order=torch.arange(64, dtype=torch.int32))
    assert sum(counts) < unsorted.panels[0].counts.sum()


def test_half_of_a_matrix_takes_about_ten_bits_a_place():
    torch.manual_seed(4)
    rows, columns = 256, 4096
    mask = torch.zeros(rows, columns, dtype=torch.bool)
    mask.scatter_(1, torch.rand(rows, columns).topk(columns // 2).indices, True)
    stored = pack_streams(numbers(rows, columns, torch.bfloat16), mask).panels[0].steps.nbytes
    assert 9.6 < 8 * stored / mask.numel() < 10.3
    stored = pack_streams(numbers(rows, columns, torch.int8), mask).panels[0].steps.nbytes
    assert 5.3 < 8 * stored / mask.numel() < 5.8


def test_steps_lie_in_memory_as_the_kernel_reads_them():
    """Lane 4 g + t: values in two loads of 16 bytes, then the word of gaps."""
    matrix = torch.arange(1, 8 * 64 + 1).view(8, 64).bfloat16()
    mask = torch.ones(8, 64, dtype=torch.bool)
    mask[5, 2::4] = torch.arange(16) % 2 == 1  # of lane 22 every second one, so each has a gap of one place
    steps = pack_streams(matrix, mask, order=torch.arange(8, dtype=torch.int32)).panels[0].steps
    assert steps.shape == (1, 1152)
    second_load = steps[0, 512:1024].clone().view(torch.bfloat16).view(LANES, 8)
    assert second_load[9].tolist() == matrix[2, 1::4][8:].tolist()  # lane 9: row 2, columns 1, 5, 9, ...
    words = steps[0, 1024:].clone().view(torch.int32)
    gaps = [words[22].item() >> (2 * (slot // 4) + 8 * (slot % 4)) & 3 for slot in range(SLOTS)]
    assert gaps == [1] * 8 + [0] * 8 and words[:22].tolist() == [0] * 22


def test_places_count_on_within_an_octet():
    advances = torch.full((5, LANES), SLOTS, dtype=torch.int32)
    advances[1] += 3
    found = place_at_steps(advances, torch.tensor([3, 2], dtype=torch.int32))
    assert found[:, 0].tolist() == [0, 16, 35, 0, 16]


def test_rows_that_fill_no_octet_are_absent():
    packed = pack_streams(numbers(3, 16, torch.bfloat16), torch.ones(3, 16, dtype=torch.bool))
    assert len(packed.order) == OCTET and packed.order[3:].tolist() == [-1] * 5
