"""A model's outputs for a task's prompts: greedy, one prompt at a time, with its chat template if it has one."""

from collections.abc import Iterator, Sequence

from lsprism.errors import SpecError
from lsprism.evaluation.progress import Steps, track_items
from lsprism.evaluation.tasks import TaskPrompt
from lsprism.generation.prompt import encode
from lsprism.generation.stream import generate
from lsprism.models.load import LoadedModel
from lsprism.records.evaluation import ModelAnswer
from lsprism.specs import GenerateSpec


def generate_answers(
    loaded: LoadedModel, prompts: Sequence[TaskPrompt], max_new_tokens: int | None = None
) -> Iterator[ModelAnswer]:
    """Yield the outputs for the prompts in order, each within its own token limit, or `max_new_tokens` for all.

    Raises SpecError, before anything is generated, if a prompt does not fit in the model's context.
    """
    streams = []
    for prompt in prompts:
        spec = GenerateSpec(greedy=True, max_new_tokens=max_new_tokens or prompt.max_new_tokens)
        try:
            tokens = encode(loaded.tokenizer, prompt.prompt)
            streams.append(generate(loaded.model, loaded.tokenizer, tokens, spec))
        except SpecError as error:
            raise SpecError(f"Prompt {prompt.id}: {error.message}", error.hint) from error
    return map(_merge_pieces, streams)


def stream_answers(
    loaded: LoadedModel, prompts: Sequence[TaskPrompt], max_new_tokens: int | None = None
) -> Steps[list[ModelAnswer]]:
    """As `generate_answers`, but yield progress per output and return the list."""
    return (yield from track_items("answers", generate_answers(loaded, prompts, max_new_tokens), len(prompts)))


def _merge_pieces(pieces: Iterator) -> ModelAnswer:
    seen = list(pieces)
    tokens = tuple(piece.token for piece in seen if piece.token is not None)
    return ModelAnswer(text="".join(piece.text for piece in seen), tokens=tokens, reason=seen[-1].reason)
