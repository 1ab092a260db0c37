"""Whole commands on the tiny model: what stands on standard output, what on standard error, and the exit code."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import lsprism
from lsprism.artifact.manifest import verify
from lsprism.artifact.target import exclusive_lock
from lsprism.cli import main, worker_thread
from lsprism.cli.model_commands import COMMANDS
from lsprism.records.compression import CompressionReport, StatsReport
from lsprism.records.model_plan import Plan

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(capsys, tiny_folder, text_file):
    """Run a verb on the tiny model; returns exit code, standard output, standard error."""

    def run(verb: str, *words) -> tuple[int, str, str]:
        text = (
            ["--calibration", text_file, "--samples", 4, "--length", 16] if verb not in ("generate", "export") else []
        )
        code = main([verb, "--model-id", str(tiny_folder), *map(str, [*text, *words])])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}


def test_compress_tells_its_stages_on_standard_error_and_its_report_on_standard_output(run, tmp_path):
    code, out, err = run("compress", "--method", "wanda", "--save-path", tmp_path / "out")
    assert code == 0
    assert [line.split()[0] for line in err.splitlines()] == [
        "prepare",
        "calibrate",
        "compress",
        "block",
        "block",
        "write",
    ]
    for word in ("kept parameters", "size on disk, whole model", "mean relative output error", str(tmp_path / "out")):
        assert word in out
    verify(tmp_path / "out")


def test_compress_json_is_one_document_that_is_the_report(run, tmp_path):
    code, out, _ = run("compress", "--method", "hybrid", "--save_path", tmp_path / "out", "--json")
    report = CompressionReport.model_validate_json(out)
    assert code == 0
    assert report == CompressionReport.model_validate_json(
        (tmp_path / "out/lsprism/report.json").read_text()
    ).model_copy(update={"save_path": tmp_path / "out"})


def test_compress_takes_a_config_and_options_override_it(run, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(f"method: wanda\nsparsity: 0.3\nsave_path: {tmp_path / 'out'}\nseed: 3\n")
    code, out, _ = run("compress", "--config", config, "--sparsity", "0.4", "--json")
    assert code == 0
    recipe = json.loads((tmp_path / "out/lsprism/recipe.json").read_text())
    assert (recipe["method"], recipe["sparsity"], recipe["calibration"]["seed"]) == ("wanda", 0.4, 3)


def test_without_a_save_path_the_result_goes_to_the_output_folder(run, tmp_path, monkeypatch, tiny_folder):
    monkeypatch.chdir(tmp_path)
    assert run("compress", "--method", "wanda", "--sparsity", "0.3")[0] == 0
    assert (tmp_path / "output" / f"{tiny_folder.name}-0.3" / "config.json").is_file()


def test_resume_of_what_is_finished_says_so_and_exits_0(run, tmp_path):
    words = ("compress", "--method", "wanda", "--save-path", tmp_path / "out")
    run(*words)
    code, out, err = run(*words, "--resume", "--json")
    assert code == 0
    assert f"{tmp_path / 'out'} is already complete." in err
    assert json.loads(out)["save_path"] == str(tmp_path / "out")


def test_a_second_run_is_refused_in_a_sentence(run, tmp_path):
    with exclusive_lock(tmp_path / "out"):
        code, _, err = run("compress", "--save-path", tmp_path / "out")
    assert code == 2
    assert f"error Another run is writing {tmp_path / 'out'}.\n" in err


def test_inspect_json_is_the_plan_and_touches_nothing(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("inspect", "--sparsity", "0.5", "--method", "svd", "--json")
    assert code == 0
    assert Plan.model_validate_json(out).method == "svd"
    assert list(tmp_path.iterdir()) == []
    code, out, _ = run("inspect", "--sparsity", "0.5", "--device", "cpu")
    assert "kernels on this machine" in out
    assert code == 0
    for word in ("2 blocks in model.layers", "self_attn.q_proj", "not compressed", "peak memory while compressing"):
        assert word in out


def test_tables_fit_80_columns(run, monkeypatch, tmp_path):
    monkeypatch.setattr("lsprism.cli.command.PIPE_WIDTH", 80)
    monkeypatch.chdir(tmp_path)
    for verb, *words in (("inspect",), ("check-stats",), ("compress", "--save-path", "out")):
        out = run(verb, *words)[1]
        assert max(map(len, out.splitlines())) <= 80
        assert "…" not in out


def test_generate_json_is_one_document(run):
    code, out, err = run(
        "generate", "--prompt", "the river sings", "--max-new-tokens", 5, "--greedy", "--ignore-eos", "--json"
    )
    answer = json.loads(out)
    assert code == 0
    assert set(answer) == {"text", "reason", "tokens", "first_token_s", "decode_s", "tokens_per_s"}
    assert (answer["tokens"], answer["reason"]) == (5, "length")
    assert answer["text"]


def test_generate_streams_the_same_text_to_standard_output_and_its_speed_to_standard_error(run):
    words = ("generate", "--prompt", "the river", "--max-new-tokens", 4, "--greedy", "--completion", "--ignore-eos")
    answer = json.loads(run(*words, "--json")[1])["text"]
    code, out, err = run(*words)
    assert (code, out) == (0, answer + "\n")
    assert "4 tokens, the first after " in err
    assert err.endswith("stopped by length\n")


def test_check_stats_has_every_site_as_json_and_as_a_table(run):
    code, out, err = run("check-stats", "--json")
    report = StatsReport.model_validate_json(out)
    assert code == 0
    assert len(report.sites) == 14
    assert report.sites[0].tokens == 4 * 16
    code, out, _ = run("check-stats")
    assert code == 0
    assert out.splitlines()[2].split() == "block layer width mean |x| max |x| norm outliers dead".split()
    first = report.sites[0]
    wanted = [f"{first.mean:.3g}", f"{first.max:.3g}", f"{first.norm:.3g}", f"{first.outlier_share:.1%}", "0"]
    assert out.splitlines()[4].split() == ["0", "self_attn.q_proj", "32", *wanted]


def test_export_writes_a_plain_copy(run, tmp_path, tiny_folder):
    code, out, err = run("export", "--save-path", tmp_path / "dense", "--json")
    assert code == 0
    assert json.loads(out) == {"save_path": str(tmp_path / "dense"), "repository": None}
    assert (tmp_path / "dense" / "model.safetensors").is_file()


@pytest.mark.parametrize(("flags", "public"), [([], False), (["--public"], True)])
def test_export_pushes_only_when_told_and_in_private_unless_told(run, tmp_path, monkeypatch, flags, public):
    pushed = []
    monkeypatch.setattr(
        "lsprism.api.push", lambda folder, repo, *, public: pushed.append((folder, repo, public)) or "https://hub/x"
    )
    code, out, err = run("export", "--save-path", tmp_path / "dense", "--push-to-hub", "me/copy", *flags)
    assert code == 0
    assert pushed == [(tmp_path / "dense", "me/copy", public)]
    assert "Uploaded to https://hub/x." in err
    assert out.strip() == str(tmp_path / "dense")


@pytest.fixture(scope="module")
def hybrid(tiny_folder, text_file, tmp_path_factory) -> dict[str, str]:
    """Digests of an undisturbed run."""
    out = tmp_path_factory.mktemp("whole") / "out"
    text = {"source": str(text_file), "samples": 4, "length": 16}
    lsprism.compress(str(tiny_folder), out, method="hybrid", device="cpu", calibration=text)
    return digests(out)


# Where a run may sit when Ctrl-C comes: a name in the code that is then blocked for as long as the test likes.
SITTING = {
    "fetching": ("lsprism.engine.prepare.resolve", signal.SIGINT),
    "tokenizing": ("lsprism.calibration.sample.prepare_tokens", signal.SIGTERM),
    "factorising": ("scipy.linalg.eigh", signal.SIGINT),
    "writing a shard": ("lsprism.engine.run.write_shard", signal.SIGTERM),
    "writing a checkpoint": ("lsprism.artifact.staging.write_shard", signal.SIGINT),
    "finishing": ("lsprism.engine.run.write_artifact", signal.SIGTERM),
}


@pytest.mark.parametrize("stage", SITTING)
def test_stopped_wherever_it_sits_it_ends_within_two_seconds_and_goes_on_with_resume(
    run, hybrid, tmp_path, monkeypatch, stage
):
    monkeypatch.setattr(worker_thread, "PATIENCE_S", 0.2)
    release, sat = threading.Event(), []

    def sit(*_, **__):
        sat.append(time.monotonic())
        threading.Timer(0.05, os.kill, (os.getpid(), SITTING[stage][1])).start()
        release.wait(30)
        raise InterruptedError  # in truth, the process has ended

    words = ("compress", "--method", "hybrid", "--device", "cpu", "--save-path", tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(SITTING[stage][0], sit)
        code, out, err = run(*words)
        seconds = time.monotonic() - sat[0]
        release.set()
        for thread in threading.enumerate():
            if thread.name == "lsprism-work":
                thread.join()
    assert code == 130
    assert seconds < 2
    assert out == ""
    assert err.splitlines()[-1] == "Stopped. Run the same command with --resume to continue."
    assert not (tmp_path / "out").exists()
    assert run(*words, "--resume")[0] == 0
    assert digests(tmp_path / "out") == hybrid


def test_a_verb_that_cannot_be_resumed_promises_nothing(run, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("lsprism.api.plan_from_spec", stop)
    assert run("inspect") == (130, "", "Stopped.\n")


def test_a_reader_of_the_bar_that_goes_away_ends_the_command_quietly(run, monkeypatch, tmp_path):
    def gone(*_):
        raise BrokenPipeError

    monkeypatch.setattr("os.dup2", lambda *_: None)  # standard output is the test's own
    monkeypatch.setattr("lsprism.cli.display.Display.show", gone)
    code, _, err = run("compress", "--save-path", tmp_path / "out")
    assert (code, err) == (1, "")


def test_alone_the_program_prints_its_help_and_exits_2(capsys):
    assert main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    for name, verb in COMMANDS.items():
        assert (f"\n  {name} " in said.err) != verb.hidden
    for name in ("LSPRISM_CACHE", "LSPRISM_STATE", "LSPRISM_HOME", "HF_TOKEN", "LSPRISM_AUTH", "130", "wikitext2"):
        assert name in said.err


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_verb_explains_itself(verb, capsys):
    assert main([verb, "--help"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.startswith(f"usage: python -m lsprism {verb} ")
    assert f"example:\n  python -m lsprism {verb} " in said.out
    assert ("--json" in said.out) == COMMANDS[verb].reports


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lsprism {lsprism.__version__}\n"


def test_a_pipe_that_nobody_reads_makes_no_noise():
    command = [sys.executable, "-m", "lsprism", "compress", "--help"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() in (0, 1)  # argparse, too, lets a reader go
    process.stderr.close()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_real_command_is_stopped_within_two_seconds_and_leaves_a_run_to_resume(tmp_path, number):
    words = f"compress --model-id demo --method hybrid --samples 8 --length 64 --save-path {tmp_path / 'out'}".split()
    process = subprocess.Popen(
        [sys.executable, "-m", "lsprism", *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    said = ""
    while "compress  30 blocks" not in said:
        assert (line := process.stderr.readline()), said
        said += line
    time.sleep(3)  # by then the first block is being factorised
    started = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert time.monotonic() - started < 2
    assert process.returncode == 130
    assert out == ""
    assert err.endswith("Stopped. Run the same command with --resume to continue.\n")
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.part" / "lsprism" / "recipe.json").is_file()
