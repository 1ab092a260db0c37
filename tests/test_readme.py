"""README's results are what one command makes of the reports in assets/, to the letter."""

import runpy
import shlex
import sys
from pathlib import Path

import pytest

from lsprism.charts.reports import read_reports
from lsprism.cli.main import main

ROOT = Path(__file__).parents[1]


def results(mark: str = "results") -> tuple[str, str]:
    """The command that README names below the mark, and the table below it."""
    block = (ROOT / "README.md").read_text(encoding="utf-8").partition(f"<!-- {mark} -->\n")[2]
    block = block.partition("<!-- end -->")[0]
    (command,) = [line.strip() for line in block.splitlines() if line.startswith("    ")]
    return command, block.partition(command)[2].strip()


def test_the_results_are_made_by_the_command_that_stands_there(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    command, table = results()
    program, words = shlex.split(command)[:3], shlex.split(command)[3:]
    assert program == ["python", "-m", "lsprism"]
    paths = [str(path) for word in words for path in (sorted(Path().glob(word)) if "*" in word else [word])]
    assert main(paths) == 0
    assert capsys.readouterr().out.strip() == table


@pytest.mark.parametrize("mark", ["methods", "parts", "consumer", "card"])
def test_what_a_benchmark_found_is_shown_by_the_command_that_stands_there(mark, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    command, table = results(mark)
    program, *words = shlex.split(command)
    assert program == "python"
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(sys, "path", list(sys.path))
    runpy.run_path(words[0], run_name="__main__")
    assert capsys.readouterr().out.strip() == table


def test_the_reports_name_no_place_on_a_machine():
    reports = read_reports(sorted((ROOT / "assets/results").glob("*.json")))
    assert reports
    for side in [side for report in reports for side in (report.compressed, report.baseline)]:
        assert not Path(side.model.model_id).is_absolute()
