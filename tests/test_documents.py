"""Documents: links, anchors and paths exist; README stays short and its numbers are those of the results."""

import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from lsprism.cli.main import main

ROOT = Path(__file__).parents[1]
FOLDERS = (".github", "assets", "lsprism", "tests")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))])
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
README = (ROOT / "README.md").read_text(encoding="utf-8")

every_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())


def prose(path: Path) -> str:
    """Without blocks of code."""
    return FENCED.sub("", path.read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    """As GitHub makes them of headings."""
    titles = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@every_document
def test_relative_links_lead_somewhere(path):
    wrong = []
    for link in LINK.findall(prose(path)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / unquote(name)).resolve() if name else path
        assert target.is_relative_to(ROOT), f"{link} leaves the repository"
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert not wrong


@every_document
def test_paths_in_backticks_exist(path):
    """`lsprism/specs.py`, `tests/methods/`: from the root; `quality.py`: in the document's folder."""
    quoted = re.findall(r"`((?:lsprism|tests|assets)/[\w./-]*|app\.py|\.ci/run)`", prose(path))
    if path.parent.name == "bench":
        quoted += [f"tests/bench/{name}" for name in re.findall(r"`(\w+\.py)`", prose(path))]
    artifact = {"lsprism/"} | {f"lsprism/{n}.json" for n in ("manifest", "recipe", "plan", "report", "environment")}
    inside = artifact if path.name == "FORMAT.md" else set()  # there, the folder inside a compressed model
    quoted = [name for name in quoted if name not in inside and not name.endswith("/NAME.py")]
    assert not [name for name in quoted if not (ROOT / name).exists()]


def test_names_in_contributing_exist():
    names = re.findall(r"`([A-Z][A-Z_]{3,}|(?:[A-Z][a-z]+)+)`", prose(ROOT / ".github/CONTRIBUTING.md"))
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "lsprism").rglob("*.py"))
    assert len(names) >= 4 and not [name for name in names if not re.search(rf"^(?:class )?{name}\b", sources, re.M)]


def test_every_benchmark_is_listed():
    listed = re.findall(r"`(\w+\.py)`", (ROOT / "tests/bench/README.md").read_text(encoding="utf-8"))
    assert {path.name for path in (ROOT / "tests/bench").glob("*.py")} == set(listed)


@every_document
def test_no_document_names_a_place_on_a_machine(path):
    assert not re.findall(r"(?<![\w.])/(?:home|root|tmp|work|Users)/\S*", path.read_text(encoding="utf-8"))


def test_readme_is_short_and_begins_with_numbers():
    lines = README.splitlines()
    assert len(lines) <= 220 and len(README.split()) <= 1600
    assert re.search(r"\| \*?\*?\d+ MB", "\n".join(lines[:30])) and "](assets/pareto.svg)" in "\n".join(lines[:30])


# Numbers of README, against the results

RESULTS = {
    name.split(" ", 1)[1]: row
    for path in sorted((ROOT / "assets/results/methods").glob("*.json"))
    for name, row in json.loads(path.read_text(encoding="utf-8")).items()
}
BEST = "hybrid:0.5+effort=best"
HEADLINE = {  # first cells of a row -> row of the results
    "dense (bfloat16) |": "dense",
    "Wanda, 50 % | uniform": "wanda:0.5",
    "SparseGPT, 50 % | uniform": "sparsegpt:0.5",
    "LS-PRISM hybrid, 50 % | uniform": "hybrid:0.5+allocation=uniform",
    "SparseGPT, 50 % | sensitivity": "sparsegpt:0.5+allocation=sensitivity",
    "LS-PRISM hybrid, 50 % (default) | sensitivity": "hybrid:0.5",
    "LS-PRISM hybrid, 50 %, best effort, int8 | sensitivity": "hybrid:0.5+values=int8+effort=best",
    "4-bit rounding |": "rtn:4",
}
SUMMARY = {
    "dense (bfloat16)": "dense",
    "Wanda": "wanda:0.5",
    "OATS": "oats:0.5",
    "SparseGPT": "sparsegpt:0.5",
    "hybrid": "hybrid:0.5",
    "hybrid, best effort": BEST,
    "… + reconstruction and distillation": f"{BEST}+reconstruct_minutes=15+heal_minutes=20",
    "4-bit rounding": "rtn:4",
}


def table(head: str) -> list[str]:
    """Rows below the row that begins with `head`, without bold marks."""
    below = README.partition(f"\n| {head} |")[2].split("\n\n")[0]
    return [line.replace("**", "") for line in below.splitlines()[2:]]


@pytest.mark.parametrize(
    "head, rows, cells",
    [
        ("SmolLM2-135M-Instruct", HEADLINE, "{size:.0f} MB | {perplexity:.2f}"),
        ("50 % sparsity", SUMMARY, "{size:.0f} MB | {perplexity:.2f} | {kl:.3f}"),
    ],
)
def test_the_numbers_of_readme_are_those_of_the_results(head, rows, cells):
    expected = []
    for label, name in rows.items():
        row = RESULTS[name]
        filled = cells.format(size=row["stored_bytes"] / 1e6, perplexity=row["perplexity"], kl=row["kl"])
        expected.append(f"| {label} | {filled} |")
    shown = table(head)
    assert len(shown) == len(expected)
    assert [line[: len(start)] for line, start in zip(shown, expected, strict=True)] == expected


def test_what_readme_says_of_gpus_is_in_the_results():
    text = (ROOT / "assets/results/README.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| (8B [^|]+) \| \S+ \(([\d.]+)x\) \| \S+ \| ([\d.]+) \|$", text, re.MULTILINE)
    rows = {row[0]: row for row in found}
    dense, sparse = (float(rows[name][2]) for name in ("8B dense", "8B sparse"))
    assert f"{sparse:.1f} instead of {dense:.1f} GB" in README
    assert f"({rows['8B sparse'][1]}x for an 8B" in README and f"2:4 saves both ({rows['8B 2:4'][1]}x)" in README


def test_the_chart_is_drawn_from_the_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests/bench")
    import pareto

    assert (ROOT / "assets/pareto.svg").read_text(encoding="utf-8") == pareto.chart(RESULTS)


def test_the_prompts_in_the_document_of_tasks_can_be_read(tmp_path):
    from lsprism.evaluation.tasks import load_task

    text = (ROOT / "assets/tasks/README.md").read_text(encoding="utf-8")
    (tmp_path / "own.jsonl").write_text(text.partition("```json\n")[2].partition("```")[0], encoding="utf-8")
    prompts = load_task(str(tmp_path / "own.jsonl")).prompts
    assert [len(prompt.checks) for prompt in prompts] == [0, 1, 1]
    kinds = re.findall(
        r'kind: Literal\["(\w+)"\]', (ROOT / "lsprism/evaluation/answer_checks.py").read_text(encoding="utf-8")
    )
    assert kinds and all(f"`{kind}`" in text for kind in kinds)


@pytest.mark.parametrize("name", ["README.md", "lsprism/README.md", ".github/SECURITY.md", "assets/tasks/README.md"])
def test_commands_and_options_in_documents_exist(name, capsys):
    main(["--help"])
    commands = re.findall(r"^  ([a-z-]+) {2,}", capsys.readouterr().out.partition("options:")[0], re.MULTILINE)
    for command in commands:
        main([command, "--help"])
    options = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) | {"--version"}
    text = re.sub(r"pip install [^`\n]+", "pip", prose(ROOT / name))
    code = " ".join(re.findall(r"`[^`]+`|^    .+", text, re.MULTILINE))
    assert set(re.findall(r"(?<!import )\blsprism +([a-z][a-z-]+)", code)) <= set(commands)
    assert set(re.findall(r"--[a-z][a-z-]+", code)) <= options
