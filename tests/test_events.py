"""Events as JSON lines, and estimates of the remaining time."""

import json

import pytest
from pydantic import TypeAdapter, ValidationError

from lsprism import events
from lsprism.events import BlockClock, BlockDone, Event, Finished, Notice, Progress, Stage
from lsprism.records.compression import CompressionReport, LayerInputStats, LayerReport, StatsReport

ADAPTER = TypeAdapter(Event)
LAYER = LayerReport(
    name="model.layers.0.up",
    block=0,
    rows=4,
    columns=6,
    form="sparse_low_rank",
    kept=12,
    rank=1,
    stored_bytes=28,
    dense_bytes=48,
    error=0.125,
)
COMPRESSION = CompressionReport(
    save_path="out/ü",
    model_id="demo",
    method="hybrid",
    sparsity=0.5,
    layers=[LAYER],
    model_parameters=24,
    kept_parameters=12,
    stored_bytes=28,
    dense_stored_bytes=48,
    seconds=1.5,
    peak_memory_bytes=1000,
    calibration="text",
    device="cpu",
    dtype="bfloat16",
)
SITE = LayerInputStats(name="l", block=0, columns=6, tokens=8, mean=0.5, max=2.0, norm=1.0, outlier_share=0.0, dead=1)
EVENTS = [
    Stage(name="prepare"),
    Stage(name="calibrate", detail="8 x 32 tokens"),
    Notice(text="ein Umlaut: ü, a line\nbreak"),
    Progress(step="measure", block=1, of=3, fraction=0.1, elapsed_s=0.5),
    Progress(step="measure", block=2, of=3, fraction=0.5, elapsed_s=2.5, eta_s=2.5),
    BlockDone(block=1, of=3, layers=[LAYER], seconds=2.5),
    BlockDone(block=2, of=3, layers=[], seconds=0.1),
    Finished(report=COMPRESSION),
    Finished(report=StatsReport(model_id="demo", calibration="text", samples=8, length=32, sites=[SITE])),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind)
def test_every_event_survives_one_line_of_json(event):
    line = event.model_dump_json()
    assert "\n" not in line
    assert json.loads(line)["kind"] == event.kind
    back = ADAPTER.validate_json(line)
    assert back == event
    assert type(back) is type(event)


def test_the_examples_cover_every_kind():
    kinds = {
        cls for cls in vars(events).values() if isinstance(cls, type) and "kind" in getattr(cls, "model_fields", ())
    }
    assert {type(event) for event in EVENTS} == kinds


def test_an_unknown_kind_is_an_error():
    with pytest.raises(ValidationError):
        ADAPTER.validate_json('{"kind": "rumour", "text": "?"}')


def test_events_are_immutable():
    with pytest.raises(ValidationError):
        EVENTS[0].name = "other"


@pytest.fixture
def now(monkeypatch) -> list[float]:
    """The current time, which tests set."""
    time = [100.0]
    monkeypatch.setattr(events.time, "monotonic", lambda: time[0])
    return time


def test_the_remaining_time_is_the_mean_block_time_times_the_remaining_blocks(now):
    clock = BlockClock(4)
    assert clock.make_progress("measure", 0.5).eta_s is None
    now[0] += 10
    assert clock.next_block() == 10
    assert clock.make_progress("measure", 0.0).eta_s == 30
    now[0] += 4
    assert clock.make_progress("measure", 0.9).eta_s == 26, "elapsed time counts, whatever fraction is done"
    now[0] += 16
    assert clock.make_progress("measure", 0.9).eta_s == 20, "a slow block is not counted beyond its mean"
    assert clock.next_block() == 20
    assert clock.make_progress("measure", 0.0).eta_s == 30  # the mean of 10 and 20, twice
    now[0] += 15
    clock.next_block()
    now[0] += 15
    clock.next_block()
    assert clock.make_progress("write", 0.0).eta_s == 0


def test_after_resume_only_blocks_of_this_session_are_timed(now):
    clock = BlockClock(10, done=7)
    first = clock.make_progress("measure", 0.0)
    assert (first.block, first.of, first.fraction, first.eta_s) == (8, 10, 0.7, None)
    now[0] += 6
    clock.next_block()
    assert clock.make_progress("measure", 0.5) == Progress(
        step="measure", block=9, of=10, fraction=0.85, elapsed_s=6, eta_s=12
    )


def test_fractions_stay_within_0_and_1_and_the_block_within_its_count(now):
    clock = BlockClock(3)
    seen = []
    for _ in range(3):
        seen += [clock.make_progress("x", part) for part in (0.0, 0.4, 0.6, 1.0)]
        clock.next_block()
    seen.append(clock.make_progress("x", 0.0))
    fractions = [event.fraction for event in seen]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)
    assert [event.block for event in seen] == [1] * 4 + [2] * 4 + [3] * 5
