"""Next-token agreement: how far a model's distributions are from the baseline's, both reading the same text.

Teacher-forced: at every position both have read the text itself, never what they would have said.
"""

import math
from collections.abc import Iterator

import torch
from torch.nn import functional as F

from lsprism.errors import SpecError
from lsprism.evaluation.likelihood import is_plain, logit_chunks, require_number
from lsprism.evaluation.steps import Steps, counted
from lsprism.evaluation.windows import Windows, require_context
from lsprism.figures import AgreementFigure
from lsprism.layers.compute_dtype import name_compute_dtype
from lsprism.models.checks import load_config
from lsprism.models.load import LoadedModel, load_tokenizer
from lsprism.reports import ModelSource


def measuring(baseline: LoadedModel, loaded: LoadedModel, windows: Windows) -> Steps[AgreementFigure]:
    """Progress window by window, then the figure; both models are in memory.

    SpecError if their tokens do not mean the same or one has no positions for such windows, NumericError if logits
    are not numbers.
    """
    require_same_tokens(baseline.source, loaded.source)
    for side in (baseline, loaded):
        require_context(side.model, windows.context)
    sums = yield from counted("agreement", _sums_of_windows(baseline, loaded, windows), len(windows.tokens))
    return AgreementFigure(
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
        baseline_compute_dtype=name_compute_dtype(baseline.model),
        dtype=str(loaded.dtype).removeprefix("torch."),
        compute_dtype=name_compute_dtype(loaded.model),
        device=str(loaded.device),
    )


def require_same_tokens(baseline: ModelSource, model: ModelSource) -> None:
    """SpecError unless a token means the same to both models, and both have logits for the same ones."""
    ours, theirs = (load_tokenizer(source).get_vocab() for source in (model, baseline))
    sizes = [_logits(source) for source in (model, baseline)]
    if ours == theirs and sizes[0] == sizes[1]:
        return
    if sizes[0] != sizes[1]:
        reason = f"{sizes[0]:,} against {sizes[1]:,} tokens"
    else:
        word = min(word for word in ours.keys() | theirs.keys() if ours.get(word) != theirs.get(word))
        reason = f"{word!r} is token {ours.get(word)} of one and {theirs.get(word)} of the other"
    raise SpecError(
        f"{model.model_id} has another tokenizer than the baseline {baseline.model_id}: {reason}.",
        "Give as --baseline the model that it was compressed from.",
    )


def _logits(source: ModelSource) -> int:
    return load_config(source.folder).get_text_config().vocab_size


@torch.no_grad()
def _sums_of_windows(baseline: LoadedModel, loaded: LoadedModel, windows: Windows) -> Iterator[tuple[float, int]]:
    """Of each window: the sum of KL(baseline || model) in nats, and at how many positions the likeliest is equal."""
    sides = [(side.model, is_plain(side.model, windows.tokens)) for side in (baseline, loaded)]
    for number, window in enumerate(windows.tokens.split(1), start=1):
        total, equal = 0.0, 0
        chunks = (logit_chunks(model, window[:, :-1], plain, windows.given - 1) for model, plain in sides)
        for p, q in zip(*chunks, strict=True):
            p, q = p.float().log_softmax(-1), q.to(p.device).float().log_softmax(-1)
            kl = F.kl_div(q, p, reduction="none", log_target=True).sum(-1)
            # A divergence is never negative; where the two are all but equal, the rounded one can be.
            total += kl.clamp(min=0).double().sum().item()
            equal += int((p.argmax(-1) == q.argmax(-1)).sum())
        require_number(total, number, len(windows.tokens))
        yield total, equal
