"""Speed comparison: finds the baseline's fastest dtype, times all models interleaved, then measures peak memory.

All models read the same prompts, the beginning of the embedded evaluation text.
"""

from torch import Tensor

from lsprism.calibration.corpus import read_text, tokenize
from lsprism.evaluation.memory import with_peak_memory
from lsprism.evaluation.profile import SpeedSettings, measuring, measuring_dtypes
from lsprism.evaluation.sides import Side, Sides, fit
from lsprism.evaluation.steps import Steps
from lsprism.figures import DtypeSpeeds, SpeedComparison, SpeedFigure
from lsprism.models.load import LoadedModel, load_tokenizer, pick_dtype
from lsprism.reports import Record
from lsprism.specs import MeasureSpec

Profile = list[list[SpeedFigure]]  # by model, then by prompt length


class Speeds(Record):
    """Speed metrics by prompt length; `baseline` is in its fastest dtype."""

    compressed: list[SpeedFigure] = []
    baseline: list[SpeedFigure] = []
    against_fastest: list[SpeedComparison] = []
    against_shipped: list[SpeedComparison] = []  # empty if the checkpoint's own dtype is the fastest
    dtypes: DtypeSpeeds | None = None


def timed(sides: Sides, asked: MeasureSpec) -> Steps[Speeds]:
    """Measure the model alone or with its baseline. SpecError if no prompt fits in the context."""
    settings = SpeedSettings(asked.prompt_lengths, asked.new_tokens, asked.repetitions)
    source = sides.model.source
    tokens = tokenize(load_tokenizer(source), read_text("embedded", split="test").text)
    if sides.baseline is None:
        ((own,), _) = yield from _profile([sides.model], sides, tokens, settings)
        return Speeds(compressed=own)
    sides.clear()  # each dtype is loaded separately
    brief = SpeedSettings((asked.prompt_lengths[0],), min(16, asked.new_tokens), settings.repetitions)
    dtypes = yield from measuring_dtypes(sides.baseline.source, sides.model.device, tokens, brief)
    shipped = str(pick_dtype("auto", sides.baseline.source)).removeprefix("torch.")
    dense = [sides.baseline.in_dtype(dtype) for dtype in dict.fromkeys((dtypes.fastest, shipped))]
    (*theirs, ours), in_turn = yield from _profile([*dense, sides.model], sides, tokens, settings)
    return Speeds(
        compressed=ours,
        baseline=theirs[0],
        against_fastest=_compare(theirs[0], ours, in_turn),
        against_shipped=_compare(theirs[1], ours, in_turn) if len(theirs) > 1 else [],
        dtypes=dtypes,
    )


def _profile(wanted: list[Side], sides: Sides, tokens: Tensor, settings: SpeedSettings) -> Steps[tuple[Profile, bool]]:
    """Metrics by model, and whether they were interleaved; otherwise the models were loaded one at a time."""
    sides.clear()
    if in_turn := fit(*wanted):
        turns = yield from measuring(*_ready([side.load() for side in wanted], tokens, settings))
        figures = [list(column) for column in zip(*turns, strict=True)]
    else:
        figures = []
        for side in wanted:
            alone = yield from measuring(*_ready([side.load()], tokens, settings))
            figures.append([figure for (figure,) in alone])
    with_memory = [
        [with_peak_memory(figure, side.source) for figure in column]
        for side, column in zip(wanted, figures, strict=True)
    ]
    return with_memory, in_turn


def _ready(
    models: list[LoadedModel], tokens: Tensor, settings: SpeedSettings
) -> tuple[list[LoadedModel], Tensor, SpeedSettings]:
    """Leave out prompts that exceed a model's context; if none is left, the error names the shortest."""
    fitting = settings.fitting(models)
    return models, tokens, fitting if fitting.prompt_lengths else settings


def _compare(theirs: list[SpeedFigure], ours: list[SpeedFigure], in_turn: bool) -> list[SpeedComparison]:
    return [SpeedComparison(baseline=a, compressed=b, in_turn=in_turn) for a, b in zip(theirs, ours, strict=True)]
