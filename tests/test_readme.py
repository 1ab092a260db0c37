"""README's commands work, and the tables of the results are what the commands above them print."""

import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from lsprism.charts.report_files import read_reports
from lsprism.cli.main import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "assets/results/README.md").read_text(encoding="utf-8")
PYTHON = ".venv/bin/python"
BUSY_MS = 120_000  # a child process that loads torch on a machine that is busy


def block(text: str, mark: str) -> tuple[str, str]:
    """The command below a mark, and what stands below the command."""
    inner = text.partition(f"<!-- {mark} -->\n")[2].partition("<!-- end -->")[0]
    (command,) = [line.strip() for line in inner.splitlines() if line.startswith("    ")]
    return command, inner.partition(command)[2].strip()


def steps(mark: str) -> list[str]:
    return block(README, mark)[0].split(" && ")


# Commands of README


def test_the_first_command_installs_and_opens_the_dashboard():
    assert re.findall(r"<!-- (\w+) -->", README) == ["demo", "end", "tests", "end", "cli", "end"]
    environment, install, start = steps("demo")
    assert environment == "python3 -m venv .venv"
    assert install == ".venv/bin/pip install -q -r requirements.txt" and (ROOT / "requirements.txt").is_file()
    assert start == f"{PYTHON} app.py"


@pytest.mark.slow
def test_in_the_dashboard_the_demo_model_is_one_click_away(page, dashboard):
    """The fixture runs `python app.py`. The run is stopped once it is at work."""
    page.goto(dashboard.url)
    page.wait_for_selector("#tabs")
    assert page.locator("#model input").input_value().startswith("demo")
    page.click("#compress-start")
    page.locator("#compress-run code").wait_for(timeout=BUSY_MS)
    run = dashboard.home / "runs" / page.locator("#compress-run code").inner_text()
    settings = json.loads((run / "record.json").read_text())["settings"]
    assert settings["model_id"] == "demo"
    page.locator("#compress-run .badge", has_text="running").first.wait_for(timeout=BUSY_MS)
    page.click("#compress-stop")
    page.locator("#compress-run .badge", has_text=re.compile("stopped|done")).first.wait_for(timeout=BUSY_MS)


def test_the_second_command_runs_linter_and_tests():
    environment, install, *checks = steps("tests")
    assert environment == "python3 -m venv .venv"
    assert install == ".venv/bin/pip install -q -r tests/requirements.txt"
    assert (ROOT / "tests/requirements.txt").is_file()
    assert checks == [".venv/bin/ruff check .", ".venv/bin/mypy", f"{PYTHON} -m pytest tests"]


def test_the_commands_for_the_command_line_compress_and_generate(tiny_folder, text_file, tmp_path, capsys):
    """With a model of two blocks instead of the demo model."""
    compress, generate = steps("cli")
    out = "output/demo-0.5"
    assert compress.count(out) == generate.count(out) == 1
    calibration = ["--calibration", str(text_file), "--samples", "4", "--length", "32"]
    for command, more in ((compress, calibration), (generate, ["--max-new-tokens", "4"])):
        program, *words = shlex.split(command)
        assert (program, words[:2]) == (PYTHON, ["-m", "lsprism"])
        stand_ins = {"demo": str(tiny_folder), out: str(tmp_path / "out")}
        assert main([stand_ins.get(word, word) for word in words[2:]] + more) == 0
        assert capsys.readouterr().out


def test_the_python_blocks_run(tiny_folder, text_file, tmp_path):
    """With a model of two blocks and local text."""
    calibration = f'calibration={{"source": {str(text_file)!r}, "samples": 4, "length": 32}}'
    stand_ins = {
        '"demo"': repr(str(tiny_folder)),
        '"output/mine"': repr(str(tmp_path / "mine")),
        'method="hybrid"': f'method="hybrid", {calibration}',
        '"sizes,perplexity,kl"': f'"sizes,perplexity,kl", "dataset": {str(text_file)!r}',
    }
    code = "".join(re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE))
    for name, stand_in in stand_ins.items():
        assert name in code
        code = code.replace(name, stand_in)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["report"].perplexity and names["model"].config.quantization_config.quant_method == "ls_prism"


# Tables of the results


@pytest.mark.parametrize("mark", ["results", "speed"])
def test_the_table_of_an_evaluation_is_the_output_of_its_command(mark, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    command, table = block(RESULTS, mark)
    program, words = shlex.split(command)[:3], shlex.split(command)[3:]
    assert program == ["python", "-m", "lsprism"]
    paths = [str(path) for word in words for path in (sorted(Path().glob(word)) if "*" in word else [word])]
    assert main(paths) == 0
    assert capsys.readouterr().out.strip() == table


@pytest.mark.parametrize("mark", ["methods", "parts", "consumer", "gpu"])
def test_the_table_of_a_benchmark_is_the_output_of_its_command(mark, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    command, table = block(RESULTS, mark)
    program, *words = shlex.split(command)
    assert program == "python"
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(sys, "path", list(sys.path))
    runpy.run_path(words[0], run_name="__main__")
    assert capsys.readouterr().out.strip() == table


def test_the_reports_name_no_place_on_a_machine():
    reports = read_reports(sorted((ROOT / "assets/results").glob("**/demo-*.json")))
    assert reports
    for side in [side for report in reports for side in (report.compressed, report.baseline)]:
        assert not Path(side.model.model_id).is_absolute()
