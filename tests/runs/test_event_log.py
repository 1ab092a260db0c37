"""Events of a run: appended by one, followed by any number; damage costs one line at most."""

import errno
import os
from pathlib import Path

import pytest
from pydantic import BaseModel

from lsprism.events import Finished, Notice, Progress, Stage
from lsprism.records.compression import StatsReport
from lsprism.runs import event_log
from lsprism.runs.event_log import EVENTS, LOG, EventLog, extract_values, find_latest_progress, read_events, read_log

STATS = StatsReport(model_id="m", calibration="c", samples=1, length=2, sites=[])


def noted(*texts: str) -> list[Notice]:
    return [Notice(text=text) for text in texts]


def write(folder: Path, *events) -> None:
    writer = EventLog(folder)
    for event in events:
        writer.add(event)
    writer.close()


def events(folder: Path, offset: int = 0) -> list:
    return [moment.event for moment in read_events(folder, offset).moments]


def test_a_follower_sees_every_event_once_and_in_order(tmp_path):
    writer, offset, seen = EventLog(tmp_path), 0, []
    given = [Stage(name="a\nb", detail="ü"), *noted("b", "c"), Finished(report=STATS)]
    for event in given:
        writer.add(event)
        tail = read_events(tmp_path, offset)
        seen, offset = seen + [moment.event for moment in tail.moments], tail.offset
    assert seen == given == events(tmp_path)


def test_where_nothing_was_added_the_file_is_not_opened(tmp_path, monkeypatch):
    write(tmp_path, *noted("a"))
    end = read_events(tmp_path).offset
    monkeypatch.setattr(Path, "open", None)
    assert read_events(tmp_path, end) == ((), end)


def test_a_line_that_is_being_written_is_left_for_later(tmp_path):
    write(tmp_path, *noted("a", "b"))
    content = (tmp_path / EVENTS).read_bytes()
    (tmp_path / EVENTS).write_bytes(content[:-3])
    tail = read_events(tmp_path)
    assert [moment.event for moment in tail.moments] == noted("a")
    (tmp_path / EVENTS).write_bytes(content)
    assert events(tmp_path, tail.offset) == noted("b")


def test_after_a_kill_in_mid_line_the_next_one_stands_alone(tmp_path):
    write(tmp_path, *noted("a", "b"))
    content = (tmp_path / EVENTS).read_bytes()
    (tmp_path / EVENTS).write_bytes(content[:-3])
    write(tmp_path, *noted("c"))
    assert events(tmp_path) == noted("a", "c")


def test_lines_of_no_use_are_passed_over(tmp_path):
    write(tmp_path, *noted("a"))
    with (tmp_path / EVENTS).open("ab") as stream:
        stream.write(b'\n{}\n\xff\x00\n{"at":1,"event":{"kind":"of tomorrow"}}\n')
        stream.write(b'{"at":1,"event":{"kind":"finished","report":{"of":"tomorrow"}}}\n')
    write(tmp_path, *noted("b"))
    assert events(tmp_path) == noted("a", "b")


def test_a_file_begun_anew_is_read_from_its_start_and_a_missing_one_is_empty(tmp_path):
    write(tmp_path, *noted("a"))
    assert events(tmp_path, 10**6) == noted("a")
    (tmp_path / EVENTS).unlink()
    assert read_events(tmp_path, 7) == ((), 0)


def test_a_disk_that_takes_half_a_line_is_full(tmp_path):
    writer = EventLog(tmp_path)
    file, writer.file = writer.file, type("Half", (), {"write": lambda self, line: len(line) // 2})()
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        writer.add(Notice(text="a"))
    file.close()


def test_the_newest_progress_is_found_from_the_end(tmp_path):
    def step(n):
        return Progress(step="s", block=n, of=9, fraction=n / 9, elapsed_s=1.0)

    assert find_latest_progress(tmp_path) is None
    write(tmp_path, *noted("x" * event_log.LAST_BYTES), step(1), step(2), *noted("a"))
    assert find_latest_progress(tmp_path).event == step(2)


def test_the_end_of_a_log_begins_with_a_whole_line(tmp_path):
    assert read_log(tmp_path, 10) == ""
    (tmp_path / LOG).write_bytes(b"first line\nsecond \xff\nthird\n")
    assert read_log(tmp_path, 100) == "first line\nsecond �\nthird\n"
    assert read_log(tmp_path, 15) == "second �\nthird\n"
    assert read_log(tmp_path, 12) == "third\n"


def test_a_report_of_any_kind_gives_its_plain_values():
    class Inner(BaseModel):
        value: float = 2.5
        many: list[int] = [1]

    class Outer(BaseModel):
        inner: Inner = Inner()
        path: Path = Path("a/b")
        nothing: Inner | None = None

    assert extract_values(Outer()) == {"inner.value": 2.5, "path": "a/b", "nothing": None}
