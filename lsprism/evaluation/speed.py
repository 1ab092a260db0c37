"""Generation speed: batch 1, greedy, fixed prompts, models interleaved in one process, warm-up excluded.

The timed loop is the one used by chat and command line; EOS is ignored.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from lsprism.errors import CorpusError, NumericError, SpecError, WorkError
from lsprism.evaluation.progress import Steps, track_items
from lsprism.generation.stream import generate, get_context_length
from lsprism.generation.timing import DecodeTiming
from lsprism.models.load import DTYPES, LoadedModel, load, select_device
from lsprism.packed.compute_dtype import format_compute_dtype
from lsprism.records.metrics import DtypeSpeeds, SpeedResult
from lsprism.records.model_plan import ModelSource
from lsprism.specs import GenerateSpec

WARM_UP_TOKENS = 4
DtypeTrial = tuple[str, float | str]  # name, and tokens per second or the reason why it does not run


@dataclass(frozen=True)
class SpeedSettings:
    """Prompt lengths, new tokens and repetitions of a speed measurement."""

    prompt_lengths: tuple[int, ...] = (32, 256, 1024)  # tokens
    new_tokens: int = 64
    repetitions: int = 3

    def fit_to_models(self, models: Sequence[LoadedModel]) -> "SpeedSettings":
        """Keep only the prompt lengths that fit in the context of every model."""
        lengths = tuple(n for n in self.prompt_lengths if all(self._has_room(n, side) for side in models))
        return SpeedSettings(lengths, self.new_tokens, self.repetitions)

    def _has_room(self, length: int, side: LoadedModel) -> bool:
        limit = get_context_length(side.model)
        return limit is None or length + self.new_tokens <= limit

    def check(self, models: Sequence[LoadedModel], tokens: Tensor) -> None:
        """Raise SpecError or CorpusError if this cannot be measured with prompts taken from tokens [n]."""
        if self.new_tokens < 2 or self.repetitions < 1 or not self.prompt_lengths or min(self.prompt_lengths) < 1:
            raise SpecError(
                f"Speed cannot be measured with prompts of {self.prompt_lengths} tokens, {self.new_tokens} new tokens"
                f" and {self.repetitions} repetitions.",
                "Use prompts of at least 1 token, at least 2 new tokens, and at least 3 repetitions.",
            )
        longest = max(self.prompt_lengths)
        for side in models:
            if not self._has_room(longest, side):
                raise SpecError(
                    f"A prompt of {longest} tokens and {self.new_tokens} new tokens exceed the context of"
                    f" {side.source.model_id}, {get_context_length(side.model)} tokens.",
                    "Choose a shorter prompt or fewer new tokens.",
                )
        if len(tokens) < longest:
            raise CorpusError(
                f"The text has {len(tokens)} tokens, too few for a prompt of {longest}.", "Use a longer text."
            )


def stream_speed(
    models: Sequence[LoadedModel], tokens: Tensor, settings: SpeedSettings = SpeedSettings()
) -> Steps[list[tuple[SpeedResult, ...]]]:
    """Measure one model, or several interleaved (A B A B), on the first tokens of [n]; yields progress per output.

    Returns for each prompt length the metrics in the order of `models`, so that SpeedComparison(baseline=a,
    compressed=b) compares two of them.
    """
    settings.check(models, tokens)
    lengths, sides = settings.prompt_lengths, len(models)
    answers = (timing for n in lengths for timing in _measure_in_turn(models, tokens[None, :n], settings))
    each = settings.repetitions * sides
    timings = yield from track_items("speed", answers, each * len(lengths))
    profile = []
    for number, length in enumerate(lengths):
        turns = timings[number * each : (number + 1) * each]
        figures = (_make_result(side, length, settings, turns[i::sides]) for i, side in enumerate(models))
        profile.append(tuple(figures))
    return profile


def stream_dtype_speeds(
    source: ModelSource, device: str, tokens: Tensor, settings: SpeedSettings = SpeedSettings((32,), 16)
) -> Steps[DtypeSpeeds]:
    """Measure a dense model in each dtype, loaded separately, on the first prompt length, to find the fastest dtype."""
    trials = yield from track_items("dtype", _measure_dtypes(source, device, tokens, settings), len(DTYPES))
    speeds = {dtype: speed for dtype, speed in trials if isinstance(speed, float)}
    left_out = {dtype: reason for dtype, reason in trials if isinstance(reason, str)}
    if not speeds:
        raise WorkError(
            f"{source.model_id} does not run on {device} in any of {', '.join(DTYPES)}: {left_out[next(iter(DTYPES))]}",
            "Choose another --device.",
        )
    return DtypeSpeeds(
        tokens_per_s=speeds,
        left_out=left_out,
        prompt_tokens=settings.prompt_lengths[0],
        new_tokens=settings.new_tokens,
        repetitions=settings.repetitions,
        device=str(select_device(device)),
        threads=torch.get_num_threads(),
    )


def measure_answer(loaded: LoadedModel, prompt: Tensor, new_tokens: int) -> DecodeTiming:
    """Time a greedy output of `new_tokens` tokens for the prompt [1, n]."""
    spec = GenerateSpec(max_new_tokens=new_tokens, greedy=True, ignore_eos=True)
    *_, last = generate(loaded.model, loaded.tokenizer, prompt, spec)
    return last.timing


def _measure_in_turn(models: Sequence[LoadedModel], prompt: Tensor, settings: SpeedSettings) -> Iterator[DecodeTiming]:
    for side in models:
        measure_answer(side, prompt, min(settings.new_tokens, WARM_UP_TOKENS))
    for _ in range(settings.repetitions):
        for side in models:
            yield measure_answer(side, prompt, settings.new_tokens)


def _make_result(side: LoadedModel, length: int, settings: SpeedSettings, timings: list[DecodeTiming]) -> SpeedResult:
    return SpeedResult(
        model=side.source.model_id,
        prompt_tokens=length,
        new_tokens=settings.new_tokens,
        first_token_runs_s=[timing.first_token_s for timing in timings],
        tokens_per_s_runs=[timing.tokens_per_s for timing in timings],
        dtype=str(side.dtype).removeprefix("torch."),
        compute_dtype=format_compute_dtype(side.model),
        device=str(side.device),
        threads=torch.get_num_threads(),
    )


def _measure_dtypes(source: ModelSource, device: str, tokens: Tensor, settings: SpeedSettings) -> Iterator[DtypeTrial]:
    for dtype in DTYPES:
        yield dtype, _measure_dtype(dtype, source, device, tokens, settings)


def _measure_dtype(
    dtype: str, source: ModelSource, device: str, tokens: Tensor, settings: SpeedSettings
) -> float | str:
    try:
        loaded = load(source, device, dtype)
        settings.check([loaded], tokens)
        timings = list(_measure_in_turn([loaded], tokens[None, : settings.prompt_lengths[0]], settings))
    except (NumericError, RuntimeError) as error:  # overflow, missing kernel, or out of memory
        return str(error).partition("\n")[0]
    return median(timing.tokens_per_s for timing in timings if timing.tokens_per_s is not None)
