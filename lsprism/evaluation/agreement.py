"""Next-token agreement: KL divergence and top-1 agreement between a model and its baseline on the same text.

Teacher-forced: at every position, both models have read the text itself, not their own output.
"""

import math
from collections.abc import Iterator

import torch
from torch.nn import functional as F

from lsprism.errors import SpecError
from lsprism.evaluation.likelihood import check_finite, has_plain_head, iter_logit_chunks
from lsprism.evaluation.progress import Steps, track_items
from lsprism.evaluation.windows import Windows, check_context
from lsprism.models.checks import load_config
from lsprism.models.load import LoadedModel, load_tokenizer
from lsprism.packed.compute_dtype import format_compute_dtype
from lsprism.records.metrics import AgreementResult
from lsprism.records.model_plan import ModelSource


def stream_agreement(baseline: LoadedModel, loaded: LoadedModel, windows: Windows) -> Steps[AgreementResult]:
    """Yield progress per window, then return the metric; both models are in memory.

    Raises SpecError if the vocabularies differ or a context is too short for the windows, NumericError for NaN or
    infinite logits.
    """
    check_same_tokens(baseline.source, loaded.source)
    for side in (baseline, loaded):
        check_context(side.model, windows.context)
    sums = yield from track_items("agreement", _iter_window_sums(baseline, loaded, windows), len(windows.tokens))
    return AgreementResult(
        kl=math.fsum(kl for kl, _ in sums) / windows.predicted,
        top1=sum(equal for _, equal in sums) / windows.predicted,
        tokens=windows.predicted,
        windows=len(sums),
        of=windows.of,
        context=windows.context,
        text=windows.text,
        bos=windows.bos,
        begins="each" if windows.start else "first",
        baseline_dtype=str(baseline.dtype).removeprefix("torch."),
        baseline_compute_dtype=format_compute_dtype(baseline.model),
        dtype=str(loaded.dtype).removeprefix("torch."),
        compute_dtype=format_compute_dtype(loaded.model),
        device=str(loaded.device),
    )


def check_same_tokens(baseline: ModelSource, model: ModelSource) -> None:
    """Raise SpecError unless both models have the same vocabulary and the same number of logits."""
    ours, theirs = (load_tokenizer(source).get_vocab() for source in (model, baseline))
    sizes = [_count_logits(source) for source in (model, baseline)]
    if ours == theirs and sizes[0] == sizes[1]:
        return
    if sizes[0] != sizes[1]:
        reason = f"{sizes[0]:,} and {sizes[1]:,} tokens"
    else:
        word = min(word for word in ours.keys() | theirs.keys() if ours.get(word) != theirs.get(word))
        reason = f"{word!r} is token {ours.get(word)} in one and {theirs.get(word)} in the other"
    raise SpecError(
        f"{model.model_id} and the baseline {baseline.model_id} have different tokenizers: {reason}.",
        "Set --baseline to the model that it was compressed from.",
    )


def _count_logits(source: ModelSource) -> int:
    return load_config(source.folder).get_text_config().vocab_size


@torch.no_grad()
def _iter_window_sums(baseline: LoadedModel, loaded: LoadedModel, windows: Windows) -> Iterator[tuple[float, int]]:
    """Yield for each window the sum of KL(baseline || model) in nats and the number of equal top-1 tokens."""
    sides = [(side.model, has_plain_head(side.model, windows.tokens)) for side in (baseline, loaded)]
    for number, window in enumerate(windows.tokens.split(1), start=1):
        total, equal = 0.0, 0
        chunks = (iter_logit_chunks(model, window[:, :-1], plain, windows.given - 1) for model, plain in sides)
        for p, q in zip(*chunks, strict=True):
            p, q = p.float().log_softmax(-1), q.to(p.device).float().log_softmax(-1)
            kl = F.kl_div(q, p, reduction="none", log_target=True).sum(-1)
            # A KL divergence is never negative, but rounding can make it so for nearly equal distributions.
            total += kl.clamp(min=0).double().sum().item()
            equal += int((p.argmax(-1) == q.argmax(-1)).sum())
        check_finite(total, number, len(windows.tokens))
        yield total, equal
