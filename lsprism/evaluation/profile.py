"""How fast models answer: batch 1, greedy, fixed prompts, the sides in turn in one process, warm-up not counted.

The loop that is timed is the one that chat and command line decode with; end-of-text is ignored.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from lsprism.errors import CorpusError, NumericError, SpecError, WorkError
from lsprism.evaluation.steps import Steps, counted
from lsprism.figures import DtypeSpeeds, SpeedFigure
from lsprism.generation.clock import Timing
from lsprism.generation.stream import context_length, generate
from lsprism.layers.compute_dtype import name_compute_dtype
from lsprism.models.load import DTYPES, LoadedModel, load, pick_device
from lsprism.reports import ModelSource
from lsprism.specs import GenerateSpec

WARM_UP_TOKENS = 4
DtypeTrial = tuple[str, float | str]  # its name, and tokens per second or why there are none


@dataclass(frozen=True)
class SpeedSettings:
    """What is timed."""

    prompt_lengths: tuple[int, ...] = (32, 256, 1024)  # tokens
    new_tokens: int = 64
    repetitions: int = 3

    def fitting(self, models: Sequence[LoadedModel]) -> "SpeedSettings":
        """The same with those prompt lengths only that every model has the context for."""
        lengths = tuple(n for n in self.prompt_lengths if all(self._fits(n, side) for side in models))
        return SpeedSettings(lengths, self.new_tokens, self.repetitions)

    def _fits(self, length: int, side: LoadedModel) -> bool:
        limit = context_length(side.model)
        return limit is None or length + self.new_tokens <= limit

    def check(self, models: Sequence[LoadedModel], tokens: Tensor) -> None:
        """SpecError or CorpusError if this cannot be timed with prompts cut from tokens [n]."""
        if self.new_tokens < 2 or self.repetitions < 1 or not self.prompt_lengths or min(self.prompt_lengths) < 1:
            raise SpecError(
                f"Speed cannot be timed with prompts of {self.prompt_lengths} tokens, {self.new_tokens} new ones and"
                f" {self.repetitions} repetitions.",
                "Choose prompts of 1 token or more, 2 new ones or more, and 3 repetitions or more.",
            )
        longest = max(self.prompt_lengths)
        for side in models:
            if not self._fits(longest, side):
                raise SpecError(
                    f"A prompt of {longest} tokens and {self.new_tokens} new ones do not fit into the context of"
                    f" {side.source.model_id}, {context_length(side.model)} tokens.",
                    "Choose a shorter prompt or fewer new tokens.",
                )
        if len(tokens) < longest:
            raise CorpusError(
                f"The text has {len(tokens)} tokens, too few for a prompt of {longest}.", "Choose a longer text."
            )


def measuring(
    models: Sequence[LoadedModel], tokens: Tensor, settings: SpeedSettings = SpeedSettings()
) -> Steps[list[tuple[SpeedFigure, ...]]]:
    """Time one model, or several in turn (A B A B), on the first of tokens [n]; progress answer by answer.

    Returns for each prompt length the figures in the order of `models`, so that SpeedComparison(baseline=a,
    compressed=b) compares two of them.
    """
    settings.check(models, tokens)
    lengths, sides = settings.prompt_lengths, len(models)
    answers = (timing for n in lengths for timing in _in_turn(models, tokens[None, :n], settings))
    each = settings.repetitions * sides
    timings = yield from counted("speed", answers, each * len(lengths))
    profile = []
    for number, length in enumerate(lengths):
        turns = timings[number * each : (number + 1) * each]
        figures = (_figure(side, length, settings, turns[i::sides]) for i, side in enumerate(models))
        profile.append(tuple(figures))
    return profile


def measuring_dtypes(
    source: ModelSource, device: str, tokens: Tensor, settings: SpeedSettings = SpeedSettings((32,), 16)
) -> Steps[DtypeSpeeds]:
    """Time a dense model in each dtype, loaded alone, on the first prompt length: `fastest` is the baseline's dtype."""
    trials = yield from counted("dtype", _try_dtypes(source, device, tokens, settings), len(DTYPES))
    speeds = {dtype: speed for dtype, speed in trials if isinstance(speed, float)}
    left_out = {dtype: reason for dtype, reason in trials if isinstance(reason, str)}
    if not speeds:
        raise WorkError(
            f"{source.model_id} runs on {device} in none of {', '.join(DTYPES)}: {left_out[next(iter(DTYPES))]}",
            "Choose another device.",
        )
    return DtypeSpeeds(
        tokens_per_s=speeds,
        left_out=left_out,
        prompt_tokens=settings.prompt_lengths[0],
        new_tokens=settings.new_tokens,
        repetitions=settings.repetitions,
        device=str(pick_device(device)),
        threads=torch.get_num_threads(),
    )


def answer(loaded: LoadedModel, prompt: Tensor, new_tokens: int) -> Timing:
    """What the greedy answer of `new_tokens` to the prompt [1, n] costs."""
    spec = GenerateSpec(max_new_tokens=new_tokens, greedy=True, ignore_eos=True)
    *_, last = generate(loaded.model, loaded.tokenizer, prompt, spec)
    return last.timing


def _in_turn(models: Sequence[LoadedModel], prompt: Tensor, settings: SpeedSettings) -> Iterator[Timing]:
    for side in models:
        answer(side, prompt, min(settings.new_tokens, WARM_UP_TOKENS))
    for _ in range(settings.repetitions):
        for side in models:
            yield answer(side, prompt, settings.new_tokens)


def _figure(side: LoadedModel, length: int, settings: SpeedSettings, timings: list[Timing]) -> SpeedFigure:
    return SpeedFigure(
        model=side.source.model_id,
        prompt_tokens=length,
        new_tokens=settings.new_tokens,
        first_token_runs_s=[timing.first_token_s for timing in timings],
        tokens_per_s_runs=[timing.tokens_per_s for timing in timings],
        dtype=str(side.dtype).removeprefix("torch."),
        compute_dtype=name_compute_dtype(side.model),
        device=str(side.device),
        threads=torch.get_num_threads(),
    )


def _try_dtypes(source: ModelSource, device: str, tokens: Tensor, settings: SpeedSettings) -> Iterator[DtypeTrial]:
    for dtype in DTYPES:
        yield dtype, _speed_in(dtype, source, device, tokens, settings)


def _speed_in(dtype: str, source: ModelSource, device: str, tokens: Tensor, settings: SpeedSettings) -> float | str:
    try:
        loaded = load(source, device, dtype)
        settings.check([loaded], tokens)
        timings = list(_in_turn([loaded], tokens[None, : settings.prompt_lengths[0]], settings))
    except (NumericError, RuntimeError) as error:  # numbers too large for it, no such kernel, not enough memory
        return str(error).partition("\n")[0]
    return median(timing.tokens_per_s for timing in timings if timing.tokens_per_s is not None)
