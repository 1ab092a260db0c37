"""Speed comparison: finds the baseline's fastest dtype, times all models interleaved, then measures peak memory.

All models read the same prompts, the beginning of the embedded evaluation text.
"""

from torch import Tensor

from lsprism.calibration.corpus import read_text, tokenize
from lsprism.evaluation.model_pair import EvaluatedModel, ModelPair, fits_in_memory
from lsprism.evaluation.peak_memory import add_peak_memory
from lsprism.evaluation.progress import Steps
from lsprism.evaluation.speed import SpeedSettings, stream_dtype_speeds, stream_speed
from lsprism.models.load import LoadedModel, load_tokenizer, select_dtype
from lsprism.records.metrics import DtypeSpeeds, SpeedComparison, SpeedResult
from lsprism.records.model_plan import Record
from lsprism.specs import MeasureSpec

Profile = list[list[SpeedResult]]  # by model, then by prompt length


class SpeedResults(Record):
    """Speed metrics by prompt length; `baseline` is in its fastest dtype."""

    compressed: list[SpeedResult] = []
    baseline: list[SpeedResult] = []
    against_fastest: list[SpeedComparison] = []
    against_shipped: list[SpeedComparison] = []  # empty if the checkpoint's own dtype is the fastest
    dtypes: DtypeSpeeds | None = None


def stream_speeds(sides: ModelPair, asked: MeasureSpec) -> Steps[SpeedResults]:
    """Measure the model alone or with its baseline. SpecError if no prompt fits in the context."""
    settings = SpeedSettings(asked.prompt_lengths, asked.new_tokens, asked.repetitions)
    source = sides.model.source
    tokens = tokenize(load_tokenizer(source), read_text("embedded", split="test").text)
    if sides.baseline is None:
        ((own,), _) = yield from _measure_profiles([sides.model], sides, tokens, settings)
        return SpeedResults(compressed=own)
    sides.release()  # each dtype is loaded separately
    brief = SpeedSettings((asked.prompt_lengths[0],), min(16, asked.new_tokens), settings.repetitions)
    dtypes = yield from stream_dtype_speeds(sides.baseline.source, sides.model.device, tokens, brief)
    shipped = str(select_dtype("auto", sides.baseline.source)).removeprefix("torch.")
    dense = [sides.baseline.replace_dtype(dtype) for dtype in dict.fromkeys((dtypes.fastest, shipped))]
    (*theirs, ours), in_turn = yield from _measure_profiles([*dense, sides.model], sides, tokens, settings)
    return SpeedResults(
        compressed=ours,
        baseline=theirs[0],
        against_fastest=_make_comparisons(theirs[0], ours, in_turn),
        against_shipped=_make_comparisons(theirs[1], ours, in_turn) if len(theirs) > 1 else [],
        dtypes=dtypes,
    )


def _measure_profiles(
    wanted: list[EvaluatedModel], sides: ModelPair, tokens: Tensor, settings: SpeedSettings
) -> Steps[tuple[Profile, bool]]:
    """Metrics by model, and whether they were interleaved; otherwise the models were loaded one at a time."""
    sides.release()
    if in_turn := fits_in_memory(*wanted):
        turns = yield from stream_speed(*_prepare_models([side.load() for side in wanted], tokens, settings))
        figures = [list(column) for column in zip(*turns, strict=True)]
    else:
        figures = []
        for side in wanted:
            alone = yield from stream_speed(*_prepare_models([side.load()], tokens, settings))
            figures.append([figure for (figure,) in alone])
    with_memory = [
        [add_peak_memory(figure, side.source) for figure in column]
        for side, column in zip(wanted, figures, strict=True)
    ]
    return with_memory, in_turn


def _prepare_models(
    models: list[LoadedModel], tokens: Tensor, settings: SpeedSettings
) -> tuple[list[LoadedModel], Tensor, SpeedSettings]:
    """Leave out prompts that exceed a model's context; if none is left, the error names the shortest."""
    fitting = settings.fit_to_models(models)
    return models, tokens, fitting if fitting.prompt_lengths else settings


def _make_comparisons(theirs: list[SpeedResult], ours: list[SpeedResult], in_turn: bool) -> list[SpeedComparison]:
    return [SpeedComparison(baseline=a, compressed=b, in_turn=in_turn) for a, b in zip(theirs, ours, strict=True)]
