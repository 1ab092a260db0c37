"""One evaluation: computes the requested metrics of a model and its baseline and returns one report."""

import datetime
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from lsprism.artifact.publish import collect_environment
from lsprism.calibration.corpus import Corpus, read_text
from lsprism.evaluation import agreement, perplexity, word_perplexity, zero_shot
from lsprism.evaluation.added_metrics import MetricInput, stream_added
from lsprism.evaluation.answers import stream_answers
from lsprism.evaluation.encoders import check_encoders
from lsprism.evaluation.model_limits import fit_evaluation
from lsprism.evaluation.model_pair import EvaluatedModel, ModelPair
from lsprism.evaluation.progress import Part
from lsprism.evaluation.result_cache import ResultCache
from lsprism.evaluation.sanity_checks import find_flags
from lsprism.evaluation.scoring import score_task
from lsprism.evaluation.sizes import measure_sizes
from lsprism.evaluation.speed_comparison import SpeedResults, stream_speeds
from lsprism.evaluation.tasks import Task, load_task
from lsprism.evaluation.windows import (
    QUICK_WINDOWS,
    Windows,
    check_context,
    get_default_context,
    make_windows,
    select_first,
)
from lsprism.events import Notice, Stage
from lsprism.metric_declarations import BUILT_IN, Metric, get_metric
from lsprism.models.load import load_tokenizer
from lsprism.models.tokens import check_rows, count_embedding_rows, find_start_tokens
from lsprism.packed.compute_dtype import get_requested_compute_dtype
from lsprism.packed.kernels.dispatch import get_active_kernel
from lsprism.records.evaluation import AddedResult, EvalReport, ModelAnswer, ModelReport, TaskReport
from lsprism.records.metrics import AgreementResult, PerplexityResult, SizeResult, WordPerplexityResult, ZeroShotResult
from lsprism.records.model_plan import ModelSource
from lsprism.specs import MeasureSpec

QUICK_PROMPTS, QUICK_DOCUMENTS, QUICK_EXAMPLES = 3, 2, 50
ONE_AT_A_TIME = (
    "Both models do not fit in memory: they are loaded one at a time, and for KL the baseline is read from disk layer"
    " by layer."
)
T = TypeVar("T")


@dataclass(frozen=True)
class EvaluationData:
    """Data of an evaluation: a text for perplexity and kl, prompts for text."""

    text: Corpus | None
    tasks: list[Task]
    notes: tuple[str, ...] = ()  # on prompts that were left out


@dataclass(frozen=True)
class Evaluation:
    """Shared state of all metrics. `sides` holds one or two models."""

    asked: MeasureSpec
    material: EvaluationData
    sides: ModelPair
    ledger: ResultCache

    def run(self) -> Part[EvalReport]:
        """Yield events, then return the report."""
        notes = [*self.material.notes, *([ONE_AT_A_TIME] if not self.sides.together else [])]
        for note in notes:
            yield Notice(text=note)
        sides = {}
        for name, side in (("compressed", self.sides.model), ("baseline", self.sides.baseline)):
            sides[name] = (yield from self._measure_model(side)) if side is not None else None
        compared = self.sides.baseline is not None
        divergence = (yield from self._measure_agreement()) if compared and self._is_wanted("kl") else None
        tasks = []
        for task in self.material.tasks:
            tasks.append((yield from self._evaluate_task(task)))
        speeds = (yield from self._measure_speeds()) if self._is_wanted("speed") else SpeedResults()
        for name, figures in (("compressed", speeds.compressed), ("baseline", speeds.baseline)):
            if (own := sides[name]) is not None:
                sides[name] = own.model_copy(update={"speeds": figures})
        report = EvalReport(
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            environment=collect_environment(),
            **sides,
            agreement=divergence,
            speedups=speeds.against_fastest,
            speedups_as_shipped=speeds.against_shipped,
            dtypes=speeds.dtypes,
            tasks=tasks,
            notes=notes,
        )
        return report.model_copy(update={"flags": find_flags(report)})

    def _is_wanted(self, *measures: str) -> bool:
        return any(measure in self.asked.measures for measure in measures)

    def _measure_model(self, side: EvaluatedModel) -> Part[ModelReport]:
        """The metrics of one model alone."""
        size = likelihood = of_words = zero = None
        yield Stage(name="load", detail=f"{side.source.model_id} in {side.dtype}")
        if self._is_wanted("sizes"):
            size = yield from self._load_or_measure(SizeResult, "sizes", side, self._measure_sizes)
        if self._is_wanted("perplexity"):
            yield Stage(name="perplexity", detail=f"{side.source.model_id} on {self._text.name}")
            likelihood = yield from self._load_or_measure(
                PerplexityResult, "perplexity", side, self._measure_perplexity, **self._get_text_key(side)
            )
        if self._is_wanted("word-perplexity"):
            yield Stage(name="word perplexity", detail=f"{side.source.model_id} on {self._text.name}")
            of_words = yield from self._load_or_measure(
                WordPerplexityResult, "word-perplexity", side, self._measure_word_perplexity, **self._get_text_key(side)
            )
        if self._is_wanted("zero-shot"):
            yield Stage(name="zero-shot", detail=f"{side.source.model_id} on {', '.join(self.asked.zero_shot_tasks)}")
            key = {"tasks": self.asked.zero_shot_tasks, "limit": self._examples}
            zero = yield from self._load_or_measure(ZeroShotResult, "zero-shot", side, self._measure_zero_shot, **key)
        report = ModelReport(model=side.get_info(), sizes=size, likelihood=likelihood, words=of_words, zero_shot=zero)
        return report.model_copy(update={"extra": (yield from self._measure_added(side))})

    def _measure_added(self, side: EvaluatedModel) -> Part[dict[str, AddedResult]]:
        """The metrics of other packages; those that need a baseline are measured for the model only."""
        found = {}
        for metric in (get_metric(name) for name in self.asked.measures if name not in BUILT_IN):
            if metric.needs_baseline and side is not self.sides.model:
                continue
            yield Stage(name=metric.name, detail=side.source.model_id)
            key: dict[str, object] = {"settings": self.asked.model_dump(mode="json", exclude={"measures"})}
            key |= self._get_text_key(side) if metric.needs_text else {}
            if metric.needs_baseline and (other := self.sides.baseline) is not None:
                key |= {"baseline": other.fingerprint, "baseline_dtype": other.dtype}
            steps = partial(self._run_added, metric)
            found[metric.name] = yield from self._load_or_measure(AddedResult, metric.name, side, steps, **key)
        return found

    def _run_added(self, metric: Metric, side: EvaluatedModel) -> Part[AddedResult]:
        windows = self._load_windows(side) if metric.needs_text else None
        with self.sides.load_both() if metric.needs_baseline else nullcontext() as pair:
            loaded = pair[1] if pair else self.sides.load(side)
            other = pair[0].model if pair else None
            given = MetricInput(loaded.model, loaded.tokenizer, self.asked, windows, other)
            return (yield from stream_added(metric, given))

    def _load_or_measure(
        self,
        kind: type[T],
        measure: str,
        side: EvaluatedModel,
        steps: Callable[[EvaluatedModel], Part[T]],
        **key: object,
    ) -> Part[T]:
        key |= {"measure": measure, "model": side.fingerprint, "dtype": side.dtype, "device": side.device}
        key |= {"kernel": get_active_kernel()} if get_active_kernel() != "auto" else {}
        compute = get_requested_compute_dtype()
        key |= {"compute_dtype": compute} if compute != "auto" else {}
        return self.ledger.load_or_run(kind, key, lambda: steps(side))

    @property
    def _text(self) -> Corpus:
        assert self.material.text is not None, "a metric that needs a text got none"
        return self.material.text

    def _get_text_key(self, side: EvaluatedModel) -> dict[str, object]:
        """The settings that a metric on the text depends on."""
        asked = self.asked
        key: dict[str, object] = {"context": asked.context, "windows": asked.windows, "quick": asked.quick}
        key |= {"bos": "each"} if asked.bos == "each" and find_start_tokens(load_tokenizer(side.source)) else {}
        return {"text": self._text.name, "sha256": self._text.sha256, **key}

    def _load_windows(self, *sides: EvaluatedModel) -> Windows:
        """Windows of the text, tokenized for the first model, no longer than the context of every model."""
        loaded = [self.sides.load(side) for side in sides]
        context = self.asked.context or min(get_default_context(one.model) for one in loaded)
        for one in loaded:
            check_context(one.model, context)
        there = make_windows(loaded[0].tokenizer, self._text, context, self.asked.bos)
        count = self.asked.windows or (QUICK_WINDOWS if self.asked.quick else there.of)
        cut = select_first(there, count)
        for one in loaded:
            check_rows(count_embedding_rows(one.model), cut.tokens, one.tokenizer)
        return cut

    def _measure_sizes(self, side: EvaluatedModel) -> Part[SizeResult]:
        yield from ()
        return measure_sizes(self.sides.load(side))

    def _measure_perplexity(self, side: EvaluatedModel) -> Part[PerplexityResult]:
        return (
            yield from perplexity.stream_perplexity(
                self.sides.load(side).model, self._load_windows(side), self.asked.batch
            )
        )

    def _measure_word_perplexity(self, side: EvaluatedModel) -> Part[WordPerplexityResult]:
        loaded = self.sides.load(side)
        documents = word_perplexity.split_documents(self._text, QUICK_DOCUMENTS if self.asked.quick else None)
        context = self.asked.context or get_default_context(loaded.model)
        return (yield from word_perplexity.stream_word_perplexity(loaded, documents, context, self.asked.bos))

    @property
    def _examples(self) -> int | None:
        """Number of examples per zero-shot task; None: all."""
        return self.asked.zero_shot_limit or (QUICK_EXAMPLES if self.asked.quick else None)

    def _measure_zero_shot(self, side: EvaluatedModel) -> Part[ZeroShotResult]:
        return (
            yield from zero_shot.stream_zero_shot(self.sides.load(side), self.asked.zero_shot_tasks, self._examples)
        )

    def _measure_agreement(self) -> Part[AgreementResult]:
        model, baseline = self.sides.model, self.sides.baseline
        assert baseline is not None
        yield Stage(name="agreement", detail=f"{model.source.model_id} and {baseline.source.model_id}")

        def measure(side: EvaluatedModel) -> Part[AgreementResult]:
            windows = self._load_windows(side)
            with self.sides.load_both() as (theirs, ours):
                return (yield from agreement.stream_agreement(theirs, ours, windows))

        beside = {"baseline": baseline.fingerprint, "baseline_dtype": baseline.dtype}
        return (
            yield from self._load_or_measure(
                AgreementResult, "kl", model, measure, **beside, **self._get_text_key(model)
            )
        )

    def _evaluate_task(self, task: Task) -> Part[TaskReport]:
        model, baseline = self.sides.model, self.sides.baseline
        ours = yield from self._generate_answers(task, model)
        theirs = (yield from self._generate_answers(task, baseline)) if baseline is not None else None
        return score_task(task, ours, theirs, self.asked.judge)

    def _generate_answers(self, task: Task, side: EvaluatedModel) -> Part[list[ModelAnswer]]:
        yield Stage(name=task.name, detail=f"outputs of {side.source.model_id}")
        most = self.asked.answer_tokens or None
        key = {"prompts": [prompt.model_dump(mode="json") for prompt in task.prompts], "most": most}

        def generate(side: EvaluatedModel) -> Part[list[ModelAnswer]]:
            return (yield from stream_answers(self.sides.load(side), task.prompts, most))

        return (yield from self._load_or_measure(list[ModelAnswer], "answers", side, generate, **key))

    def _measure_speeds(self) -> Part[SpeedResults]:
        yield Stage(name="speed", detail="the baseline's fastest dtype, then all models interleaved, then peak memory")
        lengths = self.asked.prompt_lengths[:1] if self.asked.quick else self.asked.prompt_lengths
        asked = self.asked.model_copy(update={"prompt_lengths": lengths})
        key = {"prompts": lengths, "new_tokens": asked.new_tokens, "repetitions": asked.repetitions}
        other = self.sides.baseline
        key |= {"baseline": other and other.fingerprint, "threads": torch.get_num_threads()}

        def measure(side: EvaluatedModel) -> Part[SpeedResults]:
            return (yield from stream_speeds(self.sides, asked))

        return (yield from self._load_or_measure(SpeedResults, "speed", self.sides.model, measure, **key))


def load_data(asked: MeasureSpec, embedded: bool) -> EvaluationData:
    """Read text and prompts, so that a missing text, task, encoder or library is noticed before any work.

    `embedded`: `--dataset auto` means the embedded text. Raises CorpusError, SpecError, SourceError.
    """
    wanted, text = set(asked.measures), None
    if any(get_metric(name).needs_text for name in wanted):
        auto = "embedded" if embedded else "wikitext2"
        text = read_text(auto if asked.dataset == "auto" else asked.dataset, asked.text_column, split="test")
    limit = asked.limit or (QUICK_PROMPTS if asked.quick else None)
    tasks = [load_task(name, limit) for name in asked.tasks] if "text" in wanted else []
    if tasks:
        check_encoders(asked.judge)
    if "zero-shot" in wanted:
        zero_shot.check_library()
    return EvaluationData(text, tasks)


def fit_to_models(
    asked: MeasureSpec, material: EvaluationData, *sources: ModelSource
) -> tuple[MeasureSpec, EvaluationData]:
    """Leave out what does not fit in the context of one of the models, with a note. SpecError if nothing is left."""
    found = fit_evaluation(asked, material.tasks, sources)
    return found.asked, EvaluationData(material.text, found.tasks, tuple(found.notes))
