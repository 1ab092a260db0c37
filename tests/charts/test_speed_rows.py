"""The inference profile: every length, every side, the ratio beside the side that it is against."""

from eval_reports import report, speed

from lsprism.charts.html_report import render_page
from lsprism.charts.speed_rows import HEAD, iter_speed_rows
from lsprism.records.metrics import SpeedComparison


def profiled(lengths: tuple[int, ...] = (32, 256)):
    ours = [speed("wanda", [30.0, 33.0, 36.0], prompt_tokens=n, peak_memory_bytes=5_000_000) for n in lengths]
    fast = [speed("dense", [30.0] * 3, "float16", prompt_tokens=n) for n in lengths]
    shipped = [speed("dense", [15.0] * 3, prompt_tokens=n) for n in lengths]
    made = report(
        speedups=[SpeedComparison(baseline=a, compressed=b) for a, b in zip(fast, ours, strict=True)],
        speedups_as_shipped=[SpeedComparison(baseline=a, compressed=b) for a, b in zip(shipped, ours, strict=True)],
    )
    return made.model_copy(update={"compressed": made.compressed.model_copy(update={"speeds": ours})})


def test_a_line_for_every_length_and_side():
    cells = [line.format_cells() for line in iter_speed_rows(profiled())]
    assert [cell[:3] for cell in cells[:3]] == [
        ("32", "wanda 0.5", "bfloat16"),
        ("32", "dense", "float16"),
        ("32", "dense", "bfloat16"),
    ]
    assert [cell[0] for cell in cells] == ["32"] * 3 + ["256"] * 3
    assert [cell[5] for cell in cells[:3]] == ["", "1.10x (1.00 to 1.20)", "2.20x (2.00 to 2.40)"]
    assert cells[0][6] == "5" and cells[1][6] == ""
    assert all(len(cell) == len(HEAD) for cell in cells)


def test_the_page_shows_all_of_it():
    html = render_page("A study", [profiled()])
    assert "inference profile" in html and "2.20x (2.00 to 2.40)" in html


def test_a_model_alone_has_its_own_lines():
    alone = profiled().model_copy(update={"baseline": None, "speedups": [], "speedups_as_shipped": []})
    assert [line.format_cells()[1] for line in iter_speed_rows(alone)] == ["wanda 0.5"] * 2


def test_what_was_not_timed_has_none():
    made = report()
    assert not list(
        iter_speed_rows(made.model_copy(update={"compressed": made.compressed.model_copy(update={"speeds": []})}))
    )
