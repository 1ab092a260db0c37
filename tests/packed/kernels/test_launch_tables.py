"""Launch tables give every step to one warp, and the same work to every thread block."""

import numpy as np
import pytest

from lsprism.packed.kernels.launch_tables import END, Phase, plan_launch

WARPS = 12
SMS = [82, 128, 132, 170]  # of an RTX 3090, RTX 4090, H100 and RTX 5090
SHAPES = {"qkv": (6144, 1), "o": (4096, 1), "gate_up": (28672, 1), "down": (4096, 3), "one": (14336, 1)}


def phases_of(rows: int, panels: int, factors: bool) -> list[Phase]:
    """About as many steps as half of 4096 columns a panel takes, and factors of rank 64 for each of two matrices."""
    counts = np.sort(np.random.default_rng(0).integers(33, 39, rows // 8))
    found = []
    for _ in range(panels):
        found += [Phase("right", np.full(16, 64))] * factors + [Phase("sparse", counts)]
    return found + [Phase("left", np.full(rows // 8, 1))] * factors


@pytest.mark.parametrize("factors", [False, True], ids=["sparse", "hybrid"])
@pytest.mark.parametrize("blocks", SMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_step_is_given_once_and_all_blocks_have_the_same_work(shape, blocks, factors):
    phases = phases_of(*SHAPES[shape], factors)
    launch = plan_launch(phases, blocks, WARPS)
    assert np.array_equal(np.sort(launch.sources), np.arange(sum(one.counts.sum() for one in phases)))
    steps = launch.work[:, 2].reshape(blocks, WARPS)
    assert steps.sum(1).max() <= 1.04 * steps.sum(1).mean()
    assert steps.max() - steps.mean() <= 1 + len(phases) / 2


@pytest.mark.parametrize("blocks", [1, 3, 40])
def test_records_of_a_warp_follow_each_other(blocks):
    phases = phases_of(72, 2, True)
    launch = plan_launch(phases, blocks, WARPS)
    offsets = np.cumsum([0, *(one.counts.sum() for one in phases)])
    for record, first, steps, _ in launch.work:
        at = first
        while launch.records[record, 2] != END:
            length, _, phase, _ = launch.records[record]
            begin = launch.begins[record]
            assert launch.sources[at : at + length].tolist() == list(range(begin, begin + length))
            assert offsets[phase] <= begin and begin + length <= offsets[phase + 1]
            borders = offsets[phase] + np.append(0, phases[phase].counts.cumsum())
            assert not ((borders > begin) & (borders < begin + length)).any(), "of one octet"
            at, record = at + length, record + 1
        assert at == first + steps


@pytest.mark.parametrize(("counts", "blocks"), [([33, 34, 35, 36, 37], 13), ([5], 9), ([2, 1], 7), ([9] * 30, 4)])
def test_parts_of_an_octet_are_those_of_neighboring_blocks(counts, blocks):
    launch = plan_launch([Phase("sparse", np.array(counts))], blocks, WARPS)
    for octet, (first, count) in enumerate(launch.matrices.parts):
        own = launch.matrices.octets
        has = (own[:, 0] <= octet) & (octet < own[:, 0] + own[:, 1])
        assert np.flatnonzero(has).tolist() == list(range(first, first + count))


def test_no_two_records_of_a_block_share_a_slot():
    launch = plan_launch(phases_of(200, 2, True), 5, 4)
    for block in range(5):
        first, last = launch.work[block * 4, 0], launch.work[block * 4 + 3, 0]
        while launch.records[last, 2] != END:
            last += 1
        mine = launch.records[first : last + 1]
        slots = mine[mine[:, 2] != END, 1]
        assert sorted(slots) == list(range(len(slots))) and len(slots) <= launch.slot_count


def test_more_blocks_than_steps():
    launch = plan_launch([Phase("sparse", np.array([1, 1]))], 7, WARPS)
    assert launch.work[:, 2].sum() == 2 and launch.matrices.octets[:, 1].sum() == 2
