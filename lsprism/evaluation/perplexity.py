"""Perplexity: exp of the mean negative log-likelihood over all predicted tokens of the windows."""

import math
from collections.abc import Iterator

from torch import Tensor
from transformers import PreTrainedModel

from lsprism.evaluation.likelihood import is_plain, nll, require_number, safe_exp
from lsprism.evaluation.steps import Steps, counted, finished
from lsprism.evaluation.windows import Windows, require_context
from lsprism.figures import PerplexityFigure
from lsprism.layers.compute_dtype import name_compute_dtype


def perplexity(model: PreTrainedModel, windows: Windows, batch: int = 1) -> PerplexityFigure:
    """Perplexity of a model in evaluation mode; the first tokens of each window (`given`) are not predicted.

    `batch` windows are processed at a time; memory does not depend on their total number. SpecError if the model's
    context is too short, NumericError for NaN likelihoods.
    """
    return finished(measuring(model, windows, batch))


def measuring(model: PreTrainedModel, windows: Windows, batch: int = 1) -> Steps[PerplexityFigure]:
    """As `perplexity`, but yield progress per window."""
    require_context(model, windows.context)
    nlls = nll_of_windows(model, windows.tokens, batch, windows.given)
    sums = yield from counted("perplexity", nlls, len(windows.tokens))
    mean = math.fsum(sums) / windows.predicted
    return PerplexityFigure(
        value=safe_exp(mean),
        nll=mean,
        tokens=windows.predicted,
        windows=len(sums),
        of=windows.of,
        context=windows.context,
        text=windows.text,
        bos=windows.bos,
        begins="each" if windows.start else "first",
        dtype=str(model.dtype).removeprefix("torch."),
        compute_dtype=name_compute_dtype(model),
        device=str(model.device),
    )


def nll_of_windows(model: PreTrainedModel, tokens: Tensor, batch: int = 1, given: int = 1) -> Iterator[float]:
    """Yield for each window of [n, context] the sum of -log p in nats over all tokens except the first `given`."""
    plain, done = is_plain(model, tokens), 0
    for rows in tokens.split(batch):
        for value in nll(model, rows[:, :-1], rows[:, given:], plain):
            done += 1
            require_number(value, done, len(tokens))
            yield value
