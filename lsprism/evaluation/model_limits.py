"""Leaves out prompts that do not fit in a model's context, from configs and tokenizers alone, before any work."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from lsprism.errors import SpecError
from lsprism.evaluation.tasks import Task, TaskPrompt
from lsprism.generation.prompt import encode
from lsprism.models.checks import load_config
from lsprism.models.load import load_tokenizer
from lsprism.models.tokens import get_context_length
from lsprism.records.model_plan import ModelSource
from lsprism.specs import MeasureSpec


@dataclass(frozen=True)
class ModelLimits:
    """Limits of a model's input: token ids below `rows`, at most `context` tokens (None: no limit)."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    context: int | None
    rows: int

    def explain_refusal(self, prompt: TaskPrompt) -> str:
        """Why the model cannot process the prompt; empty if it can."""
        try:
            tokens = encode(self.tokenizer, prompt.prompt)
        except SpecError as error:
            return error.message
        if self.context is not None and tokens.shape[1] >= self.context:
            return f"It has {tokens.shape[1]:,} tokens, and the context of {self.name} is {self.context:,}."
        if int(tokens.max()) >= self.rows:
            return f"Token {int(tokens.max())} is beyond the {self.rows:,} rows of the embedding of {self.name}."
        return ""


@dataclass(frozen=True)
class FittingResult:
    """The remaining settings and tasks, and notes on what was left out."""

    asked: MeasureSpec
    tasks: list[Task]
    notes: list[str] = field(default_factory=list)


def fit_evaluation(asked: MeasureSpec, tasks: Sequence[Task], sources: Sequence[ModelSource]) -> FittingResult:
    """Leave out prompts that do not fit in the context of one of the models. SpecError if nothing is left."""
    readers = [_read_limits(source) for source in sources]
    left, notes = [], []
    for task in tasks:
        kept, said = _filter_prompts(task, readers)
        left += [task.model_copy(update={"prompts": kept})] if kept else []
        notes += said
    asked, said = _filter_prompt_lengths(asked, readers)
    notes += said
    if tasks and not left:
        asked = _remove_measure("text", asked, notes)
    return FittingResult(asked, left, notes)


def _read_limits(source: ModelSource) -> ModelLimits:
    config = load_config(source.folder)
    rows = config.get_text_config().vocab_size
    return ModelLimits(source.model_id, load_tokenizer(source), get_context_length(config), rows)


def _filter_prompts(task: Task, readers: Sequence[ModelLimits]) -> tuple[tuple[TaskPrompt, ...], list[str]]:
    kept, refused = [], []
    for prompt in task.prompts:
        reason = next(filter(None, (reader.explain_refusal(prompt) for reader in readers)), "")
        kept += [] if reason else [prompt]
        refused += [(prompt.id, reason)] if reason else []
    if not refused:
        return task.prompts, []
    names = ", ".join(name for name, _ in refused)
    note = f"{task.name}: {len(refused)} of {len(task.prompts)} prompts were left out ({names}). {refused[0][1]}"
    return tuple(kept), [note]


def _filter_prompt_lengths(asked: MeasureSpec, readers: Sequence[ModelLimits]) -> tuple[MeasureSpec, list[str]]:
    """Keep only prompt lengths that leave room for the new tokens."""
    if "speed" not in asked.measures:
        return asked, []
    contexts = [(reader.context, reader.name) for reader in readers if reader.context is not None]
    least, name = min(contexts, default=(None, ""))
    lengths = tuple(n for n in asked.prompt_lengths if least is None or n + asked.new_tokens <= least)
    if lengths == asked.prompt_lengths:
        return asked, []
    long = ", ".join(str(n) for n in asked.prompt_lengths if n not in lengths)
    note = (
        f"speed: prompts of {long} tokens were left out. With {asked.new_tokens} new tokens they exceed the context"
        f" of {name}, {least:,} tokens."
    )
    if not lengths:
        return _remove_measure("speed", asked, [note]), [note]
    return asked.model_copy(update={"prompt_lengths": lengths}), [note]


def _remove_measure(measure: str, asked: MeasureSpec, notes: list[str]) -> MeasureSpec:
    left = tuple(name for name in asked.measures if name != measure)
    if not left:
        raise SpecError(f"Nothing is left to evaluate. {notes[0]}", "Choose other --measures, or shorter prompts.")
    return asked.model_copy(update={"measures": left})
