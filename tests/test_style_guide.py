"""The style guide: texts use the field's standard terms and American spelling.

`WORDS` maps each refused pattern to what to write instead. Checked are all string literals of the package and app.py,
docstrings and parts of f-strings included, and all documents, YAML, HTML, JavaScript and CSS files of the project.
"""

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXTS = {".md", ".yaml", ".yml", ".html", ".js", ".css"}
SKIPPED = {".git", ".venv", "__pycache__", "build", "dist", "node_modules", "shared"}

# Whole words, case-insensitive; a space stands for any white space.
WORDS = {
    # Metaphors and literal translations
    r"told|tells": "reports, shows, or says; for a value: is given",
    r"foretold|foretells?": "predicted, predicts",
    r"reckon(?:s|ed|ing)?": "compute, estimate",
    r"what it comes to": "estimate, total",
    r"anew": "again; begin anew: start over",
    r"begun": "started",
    r"go on|goes on|going on": "continue, resume",
    r"broke off|broken off": "interrupted, canceled, failed",
    r"mend(?:s|ed|ing)?": "fix",
    r"beside": "next to, with, in addition to, compared with",
    r"by turns": "alternately, interleaved",
    r"whoever": "the user, the caller, the reader",
    r"nobody": "no one, or name the subject",
    r"(?<!there\s)is no(?!\s+longer|\s+more)": "is not a",
    r"(?<!there\s)are no(?!\s+longer|\s+more)": "are not",
    r"the house": "the architecture",
    # One concept, one word
    r"likeliest": "most likely",
    r"harms?": "sensitivity",
    r"traits": "measurements, sensitivities",
    r"verbs?": "command",
    r"seats?": "side, model",
    r"portraits?": "model summary",
    r"(?<!model\s)card": "GPU, CUDA device, or model card",
    # American spelling
    r"quantis\w+": "quantiz-",
    r"tokenis\w+": "tokeniz-",
    r"factoris\w+": "factoriz-",
    r"(?:optim|normal|initial|recogn|summar|serial|minim|maxim|organ|util|visual)is(?:e[ds]?|ers?|ing|ation)": "-iz-",
    r"analys(?:e|ed|ing)": "analyze",
    r"licence[sd]?": "license",
    r"colours?|coloured": "color",
    r"neighbour\w*": "neighbor; for N:M patterns: consecutive",
    r"behaviours?": "behavior",
    r"favour\w*": "favor",
    r"centres?|centred": "center",
    r"labelled|labelling": "labeled",
    r"cancelled|cancelling": "canceled",
    r"modelled|modelling": "modeled",
    r"grey": "gray",
}
PATTERN = re.compile("|".join(rf"(\b(?:{word})\b)" for word in WORDS).replace(" ", r"\s+"), re.I)
SUGGESTIONS = list(WORDS.values())

# Names that are spelled so: values and commands of earlier versions, keys of files and messages, classes.
ALLOWED = {"harm", "harms", "traits", "verb", "begun", "card", "seats", "seat", "Seat", "Portrait"}
# Code in a text: `name`, a file name, {placeholder}, an HTML comment or class, the environment variable.
CODE = re.compile(
    r"""`[^`\n]*`|\S+\.(?:py|h|cpp|jsonl?|md|css|js)\b|\{\w*\}|<!--.*?-->|class=["'][^"']*["']|\bLSPRISM_TRAITS\b"""
)


def refused(text: str) -> Iterator[tuple[int, str, str]]:
    """Line (from 0), the refused words, and what to write instead."""
    text = CODE.sub(" ", text)
    for found in PATTERN.finditer(text):
        yield text.count("\n", 0, found.start()), found[0], SUGGESTIONS[found.lastindex - 1]


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """First line and text of every string literal of a Python file, comment of a CSS file, or of the whole file."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in ALLOWED:
                yield node.lineno, node.value
    elif path.suffix == ".css":
        for comment in re.finditer(r"/\*.*?\*/", source, re.S):
            yield source.count("\n", 0, comment.start()) + 1, comment[0]
    else:
        yield 1, source


def texts(root: Path) -> Iterator[Path]:
    """The files with texts, without hidden and generated folders."""
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in SKIPPED]
        paths = (Path(folder, name) for name in files)
        yield from (p for p in paths if p.suffix in TEXTS or (p.suffix == ".py" and in_package(p.relative_to(root))))


def in_package(path: Path) -> bool:
    return path.parts[0] in ("lsprism", "app.py")


def complaints(path: Path) -> list[str]:
    return [
        f"{path}:{first + line}: {found!r}, write: {instead}"
        for first, text in prose(path)
        for line, found, instead in refused(text)
    ]


def test_texts_use_the_words_of_the_style_guide():
    found = [complaint for path in texts(ROOT) for complaint in complaints(path)]
    assert not found, "\n".join(["refused words:", *found])


@pytest.mark.parametrize(
    ("name", "source", "line", "word"),
    [
        ("a.py", '"""Docstring.\n\nIt is no folder."""\n', 3, "is no"),
        ("a.py", 'x = 1\ny = f"The cost of {x} is foretold."\n', 2, "foretold"),
        ("a.py", 'raise ValueError("Mend that line.")\n', 1, "Mend"),
        ("a.py", 'HELP = "the tokeniser of the card"\n', 1, "tokeniser"),
        ("a.py", '"""It\n\ngoes\non."""\n', 3, "goes\non"),
        ("a.md", "A title\n\nColours of the page\n", 3, "Colours"),
        ("a.css", "/* beside the plot */\n", 1, "beside"),
    ],
)
def test_a_refused_word_is_found(name: str, source: str, line: int, word: str, tmp_path: Path):
    path = tmp_path / name
    path.write_text(source, encoding="utf-8")
    first = complaints(path)[0]
    assert first.startswith(f"{path}:{line}: {word!r}, write: ")


@pytest.mark.parametrize(
    "source",
    [
        "choices = ['harm', 'uniform']",
        "'''See `told` in chat/model_summary.py.'''",
        "text = 'There is no model card. It is no longer needed. It quantizes.'",
        """page = '<p class="card">{licence}</p>'""",
        "told = beside  # harm",
    ],
)
def test_names_and_standard_words_are_allowed(source: str, tmp_path: Path):
    path = tmp_path / "a.py"
    path.write_text(source, encoding="utf-8")
    assert not complaints(path)
