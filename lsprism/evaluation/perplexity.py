"""Perplexity: exp of the mean negative log-likelihood over all predicted tokens of the windows."""

import math
from collections.abc import Iterator

from torch import Tensor
from transformers import PreTrainedModel

from lsprism.evaluation.likelihood import check_finite, compute_nll, has_plain_head, safe_exp
from lsprism.evaluation.progress import Steps, run_to_end, track_items
from lsprism.evaluation.windows import Windows, check_context
from lsprism.packed.compute_dtype import format_compute_dtype
from lsprism.records.metrics import PerplexityResult


def compute_perplexity(model: PreTrainedModel, windows: Windows, batch: int = 1) -> PerplexityResult:
    """Perplexity of a model in evaluation mode; the first tokens of each window (`given`) are not predicted.

    `batch` windows are processed at a time; memory does not depend on their total number. SpecError if the model's
    context is too short, NumericError for NaN likelihoods.
    """
    return run_to_end(stream_perplexity(model, windows, batch))


def stream_perplexity(model: PreTrainedModel, windows: Windows, batch: int = 1) -> Steps[PerplexityResult]:
    """As `compute_perplexity`, but yield progress per window."""
    check_context(model, windows.context)
    nlls = iter_window_nll(model, windows.tokens, batch, windows.given)
    sums = yield from track_items("perplexity", nlls, len(windows.tokens))
    mean = math.fsum(sums) / windows.predicted
    return PerplexityResult(
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
        compute_dtype=format_compute_dtype(model),
        device=str(model.device),
    )


def iter_window_nll(model: PreTrainedModel, tokens: Tensor, batch: int = 1, given: int = 1) -> Iterator[float]:
    """Yield for each window of [n, context] the sum of -log p in nats over all tokens except the first `given`."""
    plain, done = has_plain_head(model, tokens), 0
    for rows in tokens.split(batch):
        for value in compute_nll(model, rows[:, :-1], rows[:, given:], plain):
            done += 1
            check_finite(value, done, len(tokens))
            yield value
