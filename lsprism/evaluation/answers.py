"""What a model answers to a task's prompts: greedy, one prompt at a time, by its chat template where it has one."""

from collections.abc import Iterator, Sequence

from lsprism.errors import SpecError
from lsprism.evaluation.tasks import TaskPrompt
from lsprism.generation.prompt import encode
from lsprism.generation.stream import Reason, generate
from lsprism.models.load import LoadedModel
from lsprism.reports import Record
from lsprism.specs import GenerateSpec


class Answer(Record):
    """One answer; `tokens` holds its end token too, `text` shows no special tokens and may be empty."""

    text: str
    tokens: tuple[int, ...]
    reason: Reason


def answer(loaded: LoadedModel, prompts: Sequence[TaskPrompt], max_new_tokens: int | None = None) -> Iterator[Answer]:
    """Answer the prompts in order, each within its own token budget, or `max_new_tokens` for all.

    SpecError, before anything is generated, if a prompt leaves no room in the model's context.
    """
    streams = []
    for prompt in prompts:
        spec = GenerateSpec(greedy=True, max_new_tokens=max_new_tokens or prompt.max_new_tokens)
        try:
            tokens = encode(loaded.tokenizer, prompt.prompt)
            streams.append(generate(loaded.model, loaded.tokenizer, tokens, spec))
        except SpecError as error:
            raise SpecError(f"Prompt {prompt.id}: {error.message}", error.hint) from error
    return map(_whole, streams)


def _whole(pieces: Iterator) -> Answer:
    seen = list(pieces)
    tokens = tuple(piece.token for piece in seen if piece.token is not None)
    return Answer(text="".join(piece.text for piece in seen), tokens=tokens, reason=seen[-1].reason)


def manner(loaded: LoadedModel) -> str:
    """How this model is asked, to be stated with its answers."""
    return "chat template" if loaded.tokenizer.chat_template else "plain completion"
