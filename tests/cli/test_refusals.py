"""Asked for the impossible: exit code 2, one sentence and a hint, at once, and nothing is left behind."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from lsprism import api
from lsprism.cli import main
from lsprism.engine import prepare

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory, tiny_folder, text_file) -> Path:
    """Sources that will not do, each under its name."""
    home = tmp_path_factory.mktemp("home")
    (home / "file").write_text("no model")
    (home / "empty.txt").write_text(" \n")
    (home / "short.txt").write_text("the river")
    (home / "rows.jsonl").write_text(json.dumps({"content": "the river"}) + "\n")
    (home / "broken.yaml").write_text("sparsity: [0.5")
    (home / "unknown.yaml").write_text("sparsty: 0.5")
    (home / "wrong.yaml").write_text("sparsity: 2")
    (home / "mine").mkdir()
    (home / "mine" / "diary.txt").write_text("mine")
    for name in ("no-config", "no-tokenizer", "encoder"):
        shutil.copytree(tiny_folder, home / name)
    (home / "no-config" / "config.json").unlink()
    for path in (home / "no-tokenizer").glob("tokenizer*"):
        path.unlink()
    config = json.loads((home / "encoder" / "config.json").read_text())
    bert = {**config, "model_type": "bert", "architectures": ["BertModel"]}
    (home / "encoder" / "config.json").write_text(json.dumps(bert))
    api.compress(
        str(tiny_folder), home / "artifact", method="wanda", calibration={"source": str(text_file), "length": 32}
    )
    return home


@pytest.fixture
def refused(home, tiny_folder, text_file, tmp_path, capsys) -> Callable[..., tuple[str, str]]:
    """Run compress with one thing wrong; `{home}` stands for the folder above. Returns sentence and hint."""
    out = tmp_path / "above" / "out"

    def run(*words: str) -> tuple[str, str]:
        least = ["--model-id", tiny_folder, "--calibration", text_file, "--length", "16", "--save-path", out]
        before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
        code = main(["compress", *map(str, least), *(word.format(home=home) for word in words)])
        said = capsys.readouterr()
        assert code == 2, said.err
        assert said.out == ""
        lines = [line for line in said.err.splitlines() if not line.startswith("prepare  ")]
        assert len(lines) == 2, said.err
        assert lines[0].startswith("error ")
        assert lines[0].endswith(".")
        assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before
        assert list(tmp_path.iterdir()) == []
        return lines[0].removeprefix("error "), lines[1]

    return run


CASES = {
    "sparsity 0": ("--sparsity 0", "--sparsity: .*greater than 0, got '0'"),
    "sparsity 1": ("--sparsity 1", "--sparsity: .*less than 1, got '1'"),
    "sparsity below 0": ("--sparsity -0.1", "--sparsity: .*got '-0.1'"),
    "sparsity nan": ("--sparsity nan", "--sparsity: .*finite number, got 'nan'"),
    "sparsity abc": ("--sparsity abc", "--sparsity: .*number.*got 'abc'"),
    "method": ("--method magic", "--method: .*'wanda'.*got 'magic'"),
    "pattern": ("--pattern 3:4", "--pattern: .*'2:4'.*got '3:4'"),
    "pattern and sparsity": ("--method wanda --pattern 2:4 --sparsity 0.6", "--pattern 2:4 requires --sparsity 0.5"),
    "pattern and method": ("--method oats --pattern 2:4", "--pattern 2:4 requires --method .*wanda.*, not oats"),
    "device": ("--device tpu", "--device: .*got 'tpu'"),
    "device not here": ("--device cuda:7", "--device cuda:7: this PyTorch sees"),
    "dtype": ("--dtype int8", "--dtype: .*'bfloat16'.*got 'int8'"),
    "samples": ("--samples 0", "--samples: .*got '0'"),
    "no model": ("--model-id {home}/nothing", "nothing' does not exist"),
    "model is a file": ("--model-id {home}/file", "file' is a file"),
    "no config": ("--model-id {home}/no-config", "no-config has no config.json"),
    "no tokenizer": ("--model-id {home}/no-tokenizer", "no-tokenizer has no tokenizer"),
    "encoder": ("--model-id {home}/encoder", "BertModel. is not a causal language model"),
    "artifact again": ("--model-id {home}/artifact", "artifact is already compressed"),
    "revision of a folder": ("--revision v1", "is local and has no revision 'v1'"),
    "name of nothing": ("--model-id a/b/c", "'a/b/c'"),
    "no text": ("--calibration {home}/nothing.txt", "File .*nothing.txt' not found"),
    "empty text": ("--calibration {home}/empty.txt", "empty.txt' contains no text"),
    "short text": ("--calibration {home}/short.txt", "The text has 2 tokens, too few for one window of 16"),
    "no column": ("--calibration {home}/rows.jsonl", "has no column 'text'"),
    "target is not ours": ("--save-path {home}/mine", "mine exists and is not an artifact of LS-PRISM"),
    "target is not ours, forced": ("--save-path {home}/mine --force", "mine exists and is not an artifact"),
    "target is an artifact": ("--save-path {home}/artifact", "artifact already holds an artifact"),
    "target of another recipe": ("--save-path {home}/artifact --resume", "already holds an artifact made with "),
    "target below a file": ("--save-path {home}/file/out", "file is a file"),
    "unknown option": ("--sparsty 0.5", "compress has no option --sparsty"),
    "unknown option with a value": ("--frobnicate=1", "compress has no option --frobnicate"),
    "option without its value": ("--sparsity", "Argument --sparsity: expected one argument"),
    "no config file": ("--config {home}/nothing.yaml", "nothing.yaml cannot be read: No such file"),
    "broken yaml": ("--config {home}/broken.yaml", "broken.yaml cannot be read: "),
    "unknown yaml key": ("--config {home}/unknown.yaml", "unknown option 'sparsty'"),
    "wrong yaml value": ("--config {home}/wrong.yaml", "--sparsity: .*got '2'"),
}


@pytest.mark.parametrize(("words", "says"), CASES.values(), ids=CASES)
def test_it_is_refused_in_one_sentence_with_a_hint(refused, words, says):
    sentence, hint = refused(*words.split())
    assert re.search(says, sentence), sentence
    assert len(hint) > 10


def test_a_name_with_brackets_is_said_as_it_is(refused):
    sentence, _ = refused("--model-id", "./[/red] :smile: [x]")
    assert "'./[/red] :smile: [x]'" in sentence


def test_too_little_memory_is_told_with_both_amounts(refused, monkeypatch):
    monkeypatch.setattr(prepare, "get_free_memory", lambda: 10**7)
    sentence, hint = refused()
    assert "of memory, 0.0 GB are free" in sentence
    assert "--samples" in hint


def test_too_little_disk_is_told_with_both_amounts(refused, monkeypatch):
    monkeypatch.setattr(prepare.psutil, "disk_usage", lambda _: SimpleNamespace(free=10**4))
    sentence, _ = refused()
    assert "of disk space in " in sentence


def test_cheap_checks_come_before_a_model_is_looked_for(refused, monkeypatch):
    def resolve(*_, **__):
        raise AssertionError("the model was looked for")

    monkeypatch.setattr(prepare, "resolve", resolve)
    for words in ("--device cuda:7", "--calibration {home}/nothing.txt", "--save-path {home}/mine"):
        refused(*words.split())


def test_a_verb_that_does_not_exist_is_refused_with_those_that_do(capsys):
    assert main(["shrink"]) == 2
    assert capsys.readouterr().err == "error Unknown command 'shrink'.\nSee python -m lsprism --help.\n"
    assert main(["evalute"]) == 2
    assert "Did you mean evaluate?" in capsys.readouterr().err


def test_without_a_model_there_is_nothing_to_do(capsys):
    assert main(["compress", "--sparsity", "0.5"]) == 2
    assert capsys.readouterr().err.startswith("error --model-id is missing.\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--device tpu", "--device: "),
        ("--dtype int8", "--dtype: "),
        ("--temperature 0", "--temperature: "),
        ("--max-new-tokens 0", "--max-new-tokens: "),
        ("--model-id ./nothing", "does not exist"),
    ],
)
def test_generate_refuses_too(tiny_folder, capsys, words, says):
    assert main(["generate", "--model-id", str(tiny_folder), "--prompt", "the river", *words.split()]) == 2
    said = capsys.readouterr()
    assert says in said.err
    assert said.out == ""


@pytest.mark.parametrize("verb", ["inspect", "check-stats", "generate", "export"])
@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--model-id {home}/encoder", "is not a causal language model"),
        ("--model-id {home}/nothing", "does not exist"),
        ("--model-id {home}/no-config", "has no config.json"),
        ("--revision v1", "has no revision 'v1'"),
        ("--model-id {home}/artifact", "is already compressed"),
    ],
)
def test_every_verb_refuses_what_is_no_model_for_it(home, tiny_folder, tmp_path, capsys, verb, words, says):
    own = {"generate": ["--prompt", "the"], "export": ["--save-path", str(tmp_path / "out")]}.get(verb, [])
    if own and "artifact" in words:
        return  # these take one
    said = ["--model-id", str(tiny_folder), *own, *(word.format(home=home) for word in words.split())]
    assert main([verb, *said]) == 2
    assert says in capsys.readouterr().err.splitlines()[0]
    assert list(tmp_path.iterdir()) == []


def test_export_to_what_exists_is_refused(home, tiny_folder, capsys):
    assert main(["export", "--model-id", str(tiny_folder), "--save-path", str(home / "mine")]) == 2
    assert "already exists" in capsys.readouterr().err
    assert main(["export", "--model-id", str(tiny_folder), "--save-path", "x", "--public"]) == 2
    assert "--public requires --push-to-hub" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["generate --prompt the", "evaluate", "benchmark --task logic"])
def test_unknown_kernels_are_refused(tiny_folder, tmp_path, monkeypatch, capsys, verb):
    monkeypatch.chdir(tmp_path)
    assert main([*verb.split(), "--model-id", str(tiny_folder), "--kernel", "sse9"]) == 2
    assert "'sse9'" in capsys.readouterr().err
    assert not (tmp_path / "output").exists()
