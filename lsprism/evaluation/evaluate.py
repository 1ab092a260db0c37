"""One evaluation: computes the requested metrics of a model and its baseline and returns one report."""

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from lsprism.artifact.finish import environment
from lsprism.calibration.corpus import Corpus, read_text
from lsprism.evaluation import agreement, perplexity, words, zero_shot
from lsprism.evaluation.answers import answers
from lsprism.evaluation.fitting import fitting
from lsprism.evaluation.guards import flags
from lsprism.evaluation.judge import require_judges
from lsprism.evaluation.ledger import Ledger
from lsprism.evaluation.scoring import score_task
from lsprism.evaluation.sides import Side, Sides
from lsprism.evaluation.sizes import sizes
from lsprism.evaluation.speeds import Speeds, timed
from lsprism.evaluation.steps import Part
from lsprism.evaluation.tasks import Task, load_task
from lsprism.evaluation.windows import QUICK_WINDOWS, Windows, first, require_context, usual_context, windows_of
from lsprism.events import Notice, Stage
from lsprism.figures import AgreementFigure, PerplexityFigure, SizeFigure, WordPerplexityFigure, ZeroShotFigure
from lsprism.layers.compute_dtype import requested_compute_dtype
from lsprism.layers.kernels.dispatch import chosen
from lsprism.models.load import load_tokenizer
from lsprism.models.tokens import embedding_rows, opening, require_rows
from lsprism.outcomes import Answer, EvalReport, SideReport, TaskReport
from lsprism.reports import ModelSource
from lsprism.specs import MeasureSpec

QUICK_PROMPTS, QUICK_DOCUMENTS, QUICK_EXAMPLES = 3, 2, 50
ONE_AT_A_TIME = (
    "Both models do not fit in memory: they are loaded one at a time, and for KL the baseline is read from disk layer"
    " by layer."
)
T = TypeVar("T")


@dataclass(frozen=True)
class Material:
    """Data of an evaluation: a text for perplexity and kl, prompts for text."""

    text: Corpus | None
    tasks: list[Task]
    notes: tuple[str, ...] = ()  # on prompts that were left out


@dataclass(frozen=True)
class Evaluation:
    """Shared state of all metrics. `sides` holds one or two models."""

    asked: MeasureSpec
    material: Material
    sides: Sides
    ledger: Ledger

    def run(self) -> Part[EvalReport]:
        """Yield events, then return the report."""
        notes = [*self.material.notes, *([ONE_AT_A_TIME] if not self.sides.together else [])]
        for note in notes:
            yield Notice(text=note)
        sides = {}
        for name, side in (("compressed", self.sides.model), ("baseline", self.sides.baseline)):
            sides[name] = (yield from self._own(side)) if side is not None else None
        compared = self.sides.baseline is not None
        divergence = (yield from self._agreement()) if compared and self._wants("kl") else None
        tasks = []
        for task in self.material.tasks:
            tasks.append((yield from self._task(task)))
        speeds = (yield from self._speeds()) if self._wants("speed") else Speeds()
        for name, figures in (("compressed", speeds.compressed), ("baseline", speeds.baseline)):
            if (own := sides[name]) is not None:
                sides[name] = own.model_copy(update={"speeds": figures})
        report = EvalReport(
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            environment=environment(),
            **sides,
            agreement=divergence,
            speedups=speeds.against_fastest,
            speedups_as_shipped=speeds.against_shipped,
            dtypes=speeds.dtypes,
            tasks=tasks,
            notes=notes,
        )
        return report.model_copy(update={"flags": flags(report)})

    def _wants(self, *measures: str) -> bool:
        return any(measure in self.asked.measures for measure in measures)

    def _own(self, side: Side) -> Part[SideReport]:
        """The metrics of one model alone."""
        size = likelihood = of_words = zero = None
        yield Stage(name="load", detail=f"{side.source.model_id} in {side.dtype}")
        if self._wants("sizes"):
            size = yield from self._once(SizeFigure, "sizes", side, self._sizes)
        if self._wants("perplexity"):
            yield Stage(name="perplexity", detail=f"{side.source.model_id} on {self._text.name}")
            likelihood = yield from self._once(
                PerplexityFigure, "perplexity", side, self._perplexity, **self._cut(side)
            )
        if self._wants("word-perplexity"):
            yield Stage(name="word perplexity", detail=f"{side.source.model_id} on {self._text.name}")
            of_words = yield from self._once(
                WordPerplexityFigure, "word-perplexity", side, self._words, **self._cut(side)
            )
        if self._wants("zero-shot"):
            yield Stage(name="zero-shot", detail=f"{side.source.model_id} on {', '.join(self.asked.zero_shot_tasks)}")
            key = {"tasks": self.asked.zero_shot_tasks, "limit": self._examples}
            zero = yield from self._once(ZeroShotFigure, "zero-shot", side, self._zero_shot, **key)
        return SideReport(model=side.subject(), sizes=size, likelihood=likelihood, words=of_words, zero_shot=zero)

    def _once(
        self, kind: type[T], measure: str, side: Side, steps: Callable[[Side], Part[T]], **key: object
    ) -> Part[T]:
        key |= {"measure": measure, "model": side.fingerprint, "dtype": side.dtype, "device": side.device}
        key |= {"kernel": chosen()} if chosen() != "auto" else {}
        compute = requested_compute_dtype()
        key |= {"compute_dtype": compute} if compute != "auto" else {}
        return self.ledger.once(kind, key, lambda: steps(side))

    @property
    def _text(self) -> Corpus:
        assert self.material.text is not None, "a metric that needs a text got none"
        return self.material.text

    def _cut(self, side: Side) -> dict[str, object]:
        """The settings that a metric on the text depends on."""
        asked = self.asked
        key: dict[str, object] = {"context": asked.context, "windows": asked.windows, "quick": asked.quick}
        key |= {"bos": "each"} if asked.bos == "each" and opening(load_tokenizer(side.source)) else {}
        return {"text": self._text.name, "sha256": self._text.sha256, **key}

    def _windows(self, *sides: Side) -> Windows:
        """Windows of the text, tokenized for the first model, no longer than the context of every model."""
        loaded = [self.sides.load(side) for side in sides]
        context = self.asked.context or min(usual_context(one.model) for one in loaded)
        for one in loaded:
            require_context(one.model, context)
        there = windows_of(loaded[0].tokenizer, self._text, context, self.asked.bos)
        count = self.asked.windows or (QUICK_WINDOWS if self.asked.quick else there.of)
        cut = first(there, count)
        for one in loaded:
            require_rows(embedding_rows(one.model), cut.tokens, one.tokenizer)
        return cut

    def _sizes(self, side: Side) -> Part[SizeFigure]:
        yield from ()
        return sizes(self.sides.load(side))

    def _perplexity(self, side: Side) -> Part[PerplexityFigure]:
        return (yield from perplexity.measuring(self.sides.load(side).model, self._windows(side), self.asked.batch))

    def _words(self, side: Side) -> Part[WordPerplexityFigure]:
        loaded = self.sides.load(side)
        documents = words.documents_of(self._text, QUICK_DOCUMENTS if self.asked.quick else None)
        context = self.asked.context or usual_context(loaded.model)
        return (yield from words.measuring(loaded, documents, context, self.asked.bos))

    @property
    def _examples(self) -> int | None:
        """Number of examples per zero-shot task; None: all."""
        return self.asked.zero_shot_limit or (QUICK_EXAMPLES if self.asked.quick else None)

    def _zero_shot(self, side: Side) -> Part[ZeroShotFigure]:
        return (yield from zero_shot.measuring(self.sides.load(side), self.asked.zero_shot_tasks, self._examples))

    def _agreement(self) -> Part[AgreementFigure]:
        model, baseline = self.sides.model, self.sides.baseline
        assert baseline is not None
        yield Stage(name="agreement", detail=f"{model.source.model_id} and {baseline.source.model_id}")

        def steps(side: Side) -> Part[AgreementFigure]:
            windows = self._windows(side)
            with self.sides.both() as (theirs, ours):
                return (yield from agreement.measuring(theirs, ours, windows))

        beside = {"baseline": baseline.fingerprint, "baseline_dtype": baseline.dtype}
        return (yield from self._once(AgreementFigure, "kl", model, steps, **beside, **self._cut(model)))

    def _task(self, task: Task) -> Part[TaskReport]:
        model, baseline = self.sides.model, self.sides.baseline
        ours = yield from self._answers(task, model)
        theirs = (yield from self._answers(task, baseline)) if baseline is not None else None
        return score_task(task, ours, theirs, self.asked.judge)

    def _answers(self, task: Task, side: Side) -> Part[list[Answer]]:
        yield Stage(name=task.name, detail=f"outputs of {side.source.model_id}")
        most = self.asked.answer_tokens or None
        key = {"prompts": [prompt.model_dump(mode="json") for prompt in task.prompts], "most": most}

        def steps(side: Side) -> Part[list[Answer]]:
            return (yield from answers(self.sides.load(side), task.prompts, most))

        return (yield from self._once(list[Answer], "answers", side, steps, **key))

    def _speeds(self) -> Part[Speeds]:
        yield Stage(name="speed", detail="the baseline's fastest dtype, then all models interleaved, then peak memory")
        lengths = self.asked.prompt_lengths[:1] if self.asked.quick else self.asked.prompt_lengths
        asked = self.asked.model_copy(update={"prompt_lengths": lengths})
        key = {"prompts": lengths, "new_tokens": asked.new_tokens, "repetitions": asked.repetitions}
        other = self.sides.baseline
        key |= {"baseline": other and other.fingerprint, "threads": torch.get_num_threads()}

        def steps(side: Side) -> Part[Speeds]:
            return (yield from timed(self.sides, asked))

        return (yield from self._once(Speeds, "speed", self.sides.model, steps, **key))


def gather(asked: MeasureSpec, embedded: bool) -> Material:
    """Read text and prompts, so that a missing text, task, encoder or library is noticed before any work.

    `embedded`: `--dataset auto` means the embedded text. Raises CorpusError, SpecError, SourceError.
    """
    wanted, text = set(asked.measures), None
    if wanted & {"perplexity", "kl", "word-perplexity"}:
        auto = "embedded" if embedded else "wikitext2"
        text = read_text(auto if asked.dataset == "auto" else asked.dataset, asked.text_column, split="test")
    limit = asked.limit or (QUICK_PROMPTS if asked.quick else None)
    tasks = [load_task(name, limit) for name in asked.tasks] if "text" in wanted else []
    if tasks:
        require_judges(asked.judge)
    if "zero-shot" in wanted:
        zero_shot.require_library()
    return Material(text, tasks)


def fitted(asked: MeasureSpec, material: Material, *sources: ModelSource) -> tuple[MeasureSpec, Material]:
    """Leave out what does not fit in the context of one of the models, with a note. SpecError if nothing is left."""
    found = fitting(asked, material.tasks, sources)
    return found.asked, Material(material.text, found.tasks, tuple(found.notes))
