"""The evaluation commands end to end, on tiny models."""

import json
from pathlib import Path

import pytest
import torch
from conftest import WORDS, make_model

import lsprism
from lsprism import evaluation_api
from lsprism.api import load
from lsprism.charts.report_files import read_reports
from lsprism.errors import CorpusError, DamagedError, SourceError, SpecError, TargetError
from lsprism.evaluation import model_pair as sides_room
from lsprism.evaluation import speed_comparison as speeds_room
from lsprism.events import Finished, Notice, Stage
from lsprism.records.evaluation import EvalReport, SweepReport
from lsprism.specs import EvaluateSpec, SweepSpec, validate

pytestmark = pytest.mark.slow  # complete runs, half a minute in total

CHEAP = "sizes,perplexity,kl,text"


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> dict[str, str]:
    """A calibration text, an evaluation text, and prompts."""
    folder = tmp_path_factory.mktemp("texts")
    generator = torch.Generator().manual_seed(7)
    for name in ("calibration", "evaluation"):
        picks = torch.randint(3, len(WORDS), (3000,), generator=generator).tolist()
        (folder / f"{name}.txt").write_text(" ".join(WORDS[n] for n in picks))
    prompts = [{"prompt": text, "max_new_tokens": 5} for text in ("the river sings", "two stone walks")]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)))
    return {path.stem: str(path) for path in folder.iterdir()}


@pytest.fixture(scope="module")
def artifact(tiny_folder, texts, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("artifacts") / "out"
    calibration = {"source": texts["calibration"], "samples": 4, "length": 16}
    lsprism.compress(str(tiny_folder), out, method="wanda", sparsity=0.5, calibration=calibration)
    return out


@pytest.fixture
def asked(texts):
    """Settings of a fast evaluation."""

    def settings(**changes) -> dict:
        cheap = {"measures": CHEAP, "dataset": texts["evaluation"], "tasks": texts["prompts"]}
        cheap |= {"context": 32, "windows": 3, "prompt_lengths": "8", "new_tokens": 3}
        return cheap | changes

    return settings


@pytest.fixture
def quick_memory(monkeypatch):
    """Measuring peak memory takes seconds and has its own tests."""
    monkeypatch.setattr(speeds_room, "add_peak_memory", lambda figure, source: figure)


def events_of(**fields) -> list:
    return list(evaluation_api.stream_evaluate(validate(EvaluateSpec, **fields)))


def test_an_artifact_is_compared_with_its_base_model(artifact, tiny_folder, asked):
    report = lsprism.evaluate(artifact, measuring=asked())
    assert (report.compressed.model.label, report.baseline.model.model_id) == ("wanda 0.5", str(tiny_folder))
    assert report.compressed.sizes.kept_parameters < report.baseline.sizes.kept_parameters
    assert report.perplexity != report.baseline_perplexity
    assert report.agreement.kl > 0
    assert len(report.tasks[0].rows) == 2
    assert report.compressed.likelihood.windows == 3 and report.compressed.likelihood.is_subset
    assert report.flags == [] or {flag.figure for flag in report.flags} <= {"perplexity"}


def test_both_models_are_loaded_in_one_dtype(artifact, asked):
    report = lsprism.evaluate(artifact, dtype="float32", measuring=asked(measures="perplexity,kl"))
    assert {report.compressed.likelihood.dtype, report.baseline.likelihood.dtype} == {"float32"}


def test_the_perplexity_is_that_of_a_plain_loop(tiny_folder, texts, asked):
    report = lsprism.evaluate(tiny_folder, measuring=asked(measures="perplexity"), dtype="float32")
    loaded = load(str(tiny_folder), dtype="float32")
    tokens = loaded.tokenizer(Path(texts["evaluation"]).read_text(), return_tensors="pt")["input_ids"]
    windows = tokens[0, : 3 * 32].view(3, 32)
    losses = [loaded.model(row[None], labels=row[None]).loss for row in windows]
    assert report.perplexity == pytest.approx(torch.stack(losses).mean().exp().item(), rel=1e-5)


def test_a_dense_model_is_evaluated_alone(tiny_folder, asked):
    report = lsprism.evaluate(tiny_folder, measuring=asked())
    assert report.baseline is None and report.agreement is None
    assert report.tasks[0].against_baseline is None


def test_kl_without_a_baseline_is_an_error(tiny_folder, asked):
    with pytest.raises(SpecError, match="kl needs a baseline"):
        lsprism.evaluate(tiny_folder, measuring=asked(measures="kl"))


def test_a_model_agrees_with_itself_completely(tiny_folder, asked):
    report = lsprism.evaluate(tiny_folder, baseline=str(tiny_folder), measuring=asked())
    assert report.agreement.kl < 1e-6 and report.agreement.top1 == 1
    for score in report.tasks[0].against_baseline.scores.values():
        assert score.mean is None or score.mean == pytest.approx(1, abs=1e-5)
    assert report.flags == []


def test_without_its_base_model_an_artifact_is_evaluated_alone(texts, asked, tmp_path):
    base = make_model(tmp_path / "base")
    calibration = {"source": texts["calibration"], "samples": 2, "length": 16}
    lsprism.compress(str(base), tmp_path / "out", method="wanda", calibration=calibration)
    base.rename(tmp_path / "moved")
    events = events_of(model_id=tmp_path / "out", measuring=asked())
    (notice,) = [event.text for event in events if isinstance(event, Notice)]
    assert notice.startswith(f"Base model {base} not available; evaluating without a baseline.")
    assert "--baseline" in notice
    assert events[-1].report.notes == [notice]
    named = lsprism.evaluate(tmp_path / "out", baseline=tmp_path / "moved", measuring=asked(measures="kl"))
    assert named.agreement.kl > 0


def test_a_baseline_with_another_tokenizer_is_an_error_before_any_work(artifact, tiny_folder, asked, tmp_path):
    other = make_model(tmp_path / "other")
    content = json.loads((other / "tokenizer.json").read_text())
    words = content["model"]["vocab"]
    words["river"], words["stone"] = words["stone"], words["river"]
    (other / "tokenizer.json").write_text(json.dumps(content))
    stream = evaluation_api.stream_evaluate(
        validate(EvaluateSpec, model_id=artifact, baseline=other, measuring=asked())
    )
    assert next(stream) == Stage(name="prepare", detail=str(artifact))
    with pytest.raises(SpecError, match="have different tokenizers: 'river' is token"):
        next(stream)


@pytest.mark.parametrize(
    "wrong, error, says",
    [
        ({"model_id": "./nowhere"}, SourceError, "does not exist"),
        ({"baseline": "./nowhere"}, SourceError, "does not exist"),
        ({"measuring": {"dataset": "./nowhere.txt"}}, CorpusError, "not found"),
        ({"measuring": {"context": 4000}}, (CorpusError, SpecError), "4000"),
        ({"measuring": {"tasks": "./nowhere.jsonl"}}, CorpusError, "cannot be read"),
        ({"measuring": {"tasks": "poetry"}}, SpecError, "Unknown task 'poetry'"),
    ],
)
def test_missing_inputs_are_named(artifact, asked, wrong, error, says):
    fields = {"model_id": artifact, **wrong}
    fields["measuring"] = asked(**wrong.get("measuring", {}))
    with pytest.raises(error, match=says):
        events_of(**fields)


def test_an_altered_artifact_is_not_evaluated(artifact, asked, tmp_path):
    import shutil

    copy = Path(shutil.copytree(artifact, tmp_path / "copy"))
    shard = sorted(copy.glob("*.safetensors"))[-1]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DamagedError, match="was altered"):
        lsprism.evaluate(copy, measuring=asked())


def test_speed_is_compared_with_the_fastest_and_the_checkpoints_dtype(artifact, asked, quick_memory):
    report = lsprism.evaluate(artifact, measuring=asked(measures="speed"))
    assert report.speedups[0].baseline.dtype == report.dtypes.fastest
    assert report.speedups[0].compressed.dtype == "bfloat16"
    if report.dtypes.fastest != "bfloat16":
        assert report.speedups_as_shipped[0].baseline.dtype == "bfloat16"
    assert report.speedups[0].in_turn


def test_models_that_do_not_fit_together_are_loaded_one_at_a_time(artifact, asked, quick_memory, monkeypatch):
    together = lsprism.evaluate(artifact, measuring=asked(measures="kl,speed"))
    monkeypatch.setattr(sides_room, "BESIDE", 10**15)
    apart = lsprism.evaluate(artifact, measuring=asked(measures="kl,speed"))
    assert apart.agreement.kl == pytest.approx(together.agreement.kl, rel=1e-3)
    assert not apart.speedups[0].in_turn
    assert "do not fit in memory" in apart.notes[0]
    assert "loaded one at a time" in apart.speedups[0].format_protocol()


def test_the_report_is_written_as_json_csv_and_html(artifact, asked, tmp_path):
    report = lsprism.evaluate(artifact, save_path=tmp_path / "e", measuring=asked())
    assert {"report.json", "report.csv", "report.html"} <= {path.name for path in (tmp_path / "e").iterdir()}
    assert read_reports([tmp_path / "e"]) == read_reports([tmp_path / "e" / "report.json"]) == [report]
    assert json.loads((tmp_path / "e/report.json").read_text())["perplexity"] == report.perplexity
    with pytest.raises(TargetError, match="already exists.*--resume to continue"):
        lsprism.evaluate(artifact, save_path=tmp_path / "e", measuring=asked())


def test_a_resumed_evaluation_computes_only_missing_metrics(artifact, asked, tmp_path, monkeypatch):
    spec = {"model_id": artifact, "save_path": tmp_path / "e", "measuring": asked()}
    stream = evaluation_api.stream_evaluate(validate(EvaluateSpec, **spec))
    for event in stream:
        if isinstance(event, Stage) and event.name == "agreement":
            break
    stream.close()
    assert not (tmp_path / "e/report.json").exists()
    monkeypatch.setattr("lsprism.evaluation.perplexity.stream_perplexity", lambda *_: pytest.fail("measured again"))
    assert events_of(**spec, resume=True)[-1].report.agreement.kl > 0


def test_force_computes_all_metrics_again(artifact, asked, tmp_path, monkeypatch):
    spec = {"model_id": artifact, "save_path": tmp_path / "e", "measuring": asked(measures="sizes")}
    events_of(**spec)
    calls = []
    real = evaluation_api.Evaluation._measure_sizes
    monkeypatch.setattr(
        evaluation_api.Evaluation, "_measure_sizes", lambda self, side: calls.append(side) or real(self, side)
    )
    events_of(**spec, resume=True)
    assert calls == []
    events_of(**spec, force=True)
    assert len(calls) == 2


def test_quick_uses_a_labeled_subset(tiny_folder, asked):
    report = lsprism.evaluate(tiny_folder, measuring=asked(measures="perplexity,text", quick=True, windows=0, limit=1))
    assert (report.compressed.likelihood.windows, report.compressed.likelihood.of) == (4, 93)
    assert "(a subset)" in report.compressed.likelihood.format_protocol()
    assert "a subset" in report.tasks[0].task


def studied(tiny_folder, texts, asked, out, **changes):
    calibration = {"source": texts["calibration"], "samples": 4, "length": 16}
    fields = {"method": "wanda", "calibration": calibration, "measuring": asked(), **changes}
    return evaluation_api.stream_study(validate(SweepSpec, model_id=tiny_folder, save_path=out, **fields))


def test_a_sweep_compresses_evaluates_and_recommends(tiny_folder, texts, asked, tmp_path):
    *events, last = studied(tiny_folder, texts, asked, tmp_path / "s")
    assert not any(isinstance(event, Finished) for event in events)
    assert [report.compressed.model.label for report in last.report.reports] == ["wanda 0.3", "wanda 0.5"]
    assert {"study.json", "study.csv", "study.html", "wanda-0.3", "wanda-0.5"} <= {
        path.name for path in (tmp_path / "s").iterdir()
    }
    assert SweepReport.model_validate_json((tmp_path / "s/study.json").read_text()) == last.report
    assert last.report.advice.rule
    table = lsprism.compare([tmp_path / "s"])
    assert len(table.rows) == 3
    loads = [event.detail for event in events if isinstance(event, Stage) and event.name == "load"]
    assert len(loads) == 4
    baselines = [report.baseline.likelihood for report in last.report.reports]
    assert baselines[0] == baselines[1]


def test_a_killed_sweep_is_resumed_model_by_model(tiny_folder, texts, asked, tmp_path, monkeypatch):
    stream = studied(tiny_folder, texts, asked, tmp_path / "s")
    for event in stream:
        if isinstance(event, Notice) and event.text.startswith("Model 2"):
            break
    stream.close()
    with pytest.raises(TargetError, match="--resume"):
        next(event for event in studied(tiny_folder, texts, asked, tmp_path / "s") if event.kind == "notice")
    before = (tmp_path / "s/wanda-0.3/lsprism/manifest.json").read_bytes()
    *_, last = studied(tiny_folder, texts, asked, tmp_path / "s", resume=True)
    assert len(last.report.reports) == 2
    assert (tmp_path / "s/wanda-0.3/lsprism/manifest.json").read_bytes() == before


def test_a_sweep_over_an_artifact_is_an_error(artifact, texts, asked, tmp_path):
    with pytest.raises(SourceError, match="already compressed"):
        list(studied(artifact, texts, asked, tmp_path / "s"))


def test_files_that_are_not_reports_are_errors(tmp_path):
    with pytest.raises(SpecError, match="No report found"):
        lsprism.compare([tmp_path])
    (tmp_path / "report.json").write_text('{"created": "now"}')
    with pytest.raises(DamagedError, match="is not an LS-PRISM report"):
        lsprism.compare([tmp_path])
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(DamagedError, match="is not an LS-PRISM report"):
        lsprism.compare([tmp_path / "report.json"])


def test_a_report_survives_json(artifact, asked):
    report = lsprism.evaluate(artifact, measuring=asked())
    assert EvalReport.model_validate_json(report.model_dump_json()) == report
