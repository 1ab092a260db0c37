"""Votes are stored line by line and counted per pair of models."""

import pytest

from lsprism.chat.votes import Vote, VoteCount, VoteStore, count_votes
from lsprism.errors import DiskError

PAIR = {"left": "aaa", "right": "bbb"}
NAMES = {"left": "demo", "right": "hybrid 0.5"}


def vote(verdict, weights=PAIR, blind=True) -> Vote:
    return Vote(at=1.0, verdict=verdict, blind=blind, labels=NAMES, weights=weights)


def test_votes_are_persistent(tmp_path):
    VoteStore(tmp_path / "state").add(vote("left"))
    VoteStore(tmp_path / "state").add(vote("bad"))
    assert [one.verdict for one in VoteStore(tmp_path / "state").read_all()] == ["left", "bad"]
    assert VoteStore(tmp_path / "elsewhere").read_all() == []


def test_a_truncated_line_is_skipped(tmp_path):
    votes = VoteStore(tmp_path)
    votes.add(vote("left"))
    votes.path.write_bytes(votes.path.read_bytes() + b'{"at": 1\n')
    votes.add(vote("right"))
    assert [one.verdict for one in votes.read_all()] == ["left", "right"]


def test_the_tally_follows_the_models_not_the_sides():
    crossed = {"left": "bbb", "right": "aaa"}
    votes = [vote("right"), vote("left", crossed), vote("equal"), vote("left", {"left": "aaa", "right": "ccc"})]
    assert count_votes(votes, PAIR, blind=True) == VoteCount(right=2, equal=1)
    assert count_votes(votes, crossed, blind=True) == VoteCount(left=2, equal=1)


def test_open_and_blind_votes_are_counted_separately():
    votes = [vote("right"), vote("left", blind=False)]
    assert count_votes(votes, PAIR, blind=True) == VoteCount(right=1)
    assert count_votes(votes, PAIR, blind=False) == VoteCount(left=1)


def test_the_interval_is_the_wilson_interval():
    assert VoteCount(left=4, right=6).compute_interval() == pytest.approx((0.3127, 0.8318), abs=1e-4)
    low, high = VoteCount(right=3).compute_interval()
    assert low == pytest.approx(0.4385, abs=1e-4) and high == pytest.approx(1.0)


def test_a_folder_without_write_permission_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="not counted"):
        VoteStore(tmp_path / "file").add(vote("left"))
