"""Perplexity of a causal model: exp of the mean negative log-likelihood over all predicted tokens of its windows."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from lsprism.errors import NumericError
from lsprism.reports import Record

LOGITS_BYTES = 64 * 2**20  # of one chunk of float32 logits [positions, vocabulary]
PROBE_TOKENS = 16


class Perplexity(Record):
    """What was measured, without the settings it was measured under."""

    perplexity: float
    nll: float  # mean, nats per predicted token
    tokens: int  # predicted
    windows: int


def perplexity(model: PreTrainedModel, windows: Tensor, batch: int = 1) -> Perplexity:
    """Of a model in evaluation mode on windows [n, context] int64, n >= 1; the first token of each is not predicted.

    NumericError if a likelihood is not a number.
    """
    return mean_of(list(nll_of_windows(model, windows, batch)), windows.shape[1])


def mean_of(sums: list[float], context: int) -> Perplexity:
    """From the sums (nats) that nll_of_windows gave, windows of `context` tokens."""
    tokens = len(sums) * (context - 1)
    nll = math.fsum(sums) / tokens
    # math.exp raises where the perplexity is beyond float64; torch gives infinity.
    value = torch.tensor(nll, dtype=torch.float64).exp().item()
    return Perplexity(perplexity=value, nll=nll, tokens=tokens, windows=len(sums))


def nll_of_windows(model: PreTrainedModel, windows: Tensor, batch: int = 1) -> Iterator[float]:
    """Yield for each of windows [n, context] the sum over its context - 1 predictions of -log p, in nats."""
    plain = _is_plain(model, windows[:1, :PROBE_TOKENS])
    done = 0
    for tokens in windows.split(batch):
        for nll in _nll(model, tokens.to(model.device), plain):
            if math.isnan(nll):
                raise NumericError(
                    f"The model's logits are not numbers in window {done + 1} of {len(windows)}.",
                    "Load it in bfloat16 or float32; if that does not help, its weights are damaged.",
                )
            yield nll
            done += 1


@torch.no_grad()
def _nll(model: PreTrainedModel, tokens: Tensor, plain: bool) -> list[float]:
    """-log p summed over each row of tokens [rows, context]: log-softmax in float32, sums in float64."""
    targets = tokens[:, 1:].flatten()
    losses: list[Tensor] = []
    start = 0
    for logits in _chunks_of_head(model, tokens) if plain else _chunks_of_forward(model, tokens):
        target = targets[start : start + len(logits)].to(logits.device)
        losses.append(F.cross_entropy(logits.float(), target, reduction="none"))
        start += len(logits)
    return torch.cat(losses).cpu().double().view(len(tokens), -1).sum(1).tolist()


def _chunks_of_head(model: PreTrainedModel, tokens: Tensor) -> Iterator[Tensor]:
    """Logits [<= positions, vocabulary], row after row, without ever holding those of a whole window."""
    hidden = model.base_model(input_ids=tokens, use_cache=False)[0][:, :-1].flatten(0, 1)
    for chunk in hidden.split(_positions(model)):
        yield model.get_output_embeddings()(chunk)


def _chunks_of_forward(model: PreTrainedModel, tokens: Tensor) -> Iterator[Tensor]:
    """The same from the model's own forward, which holds the logits of one whole window."""
    for row in tokens.split(1):
        yield from model(input_ids=row, use_cache=False).logits[0, :-1].split(_positions(model))


def _positions(model: PreTrainedModel) -> int:
    return max(1, LOGITS_BYTES // (4 * model.config.get_text_config().vocab_size))


@torch.no_grad()
def _is_plain(model: PreTrainedModel, tokens: Tensor) -> bool:
    """Whether the logits are the output embedding of the base model's states and nothing else (no soft cap, no scale).

    Seen in one forward pass over tokens [1, few], not read from the config, so that it holds for any architecture.
    """
    base, head = model.base_model, model.get_output_embeddings()
    if base is model or head is None:
        return False
    seen: dict[str, Tensor] = {}

    def states(module: torch.nn.Module, inputs: tuple, output: tuple) -> None:
        seen["states"] = output[0]

    def ends(module: torch.nn.Module, inputs: tuple, output: Tensor) -> None:
        seen["into head"], seen["out of head"] = inputs[0], output

    with base.register_forward_hook(states), head.register_forward_hook(ends):
        logits = model(input_ids=tokens.to(model.device), use_cache=False).logits
    if seen.keys() != {"states", "into head", "out of head"}:
        return False
    return _same(seen["states"], seen["into head"]) and _same(seen["out of head"], logits)


def _same(a: Tensor, b: Tensor) -> bool:
    """Equal to the bit after widening; not a number equals itself."""
    return a.shape == b.shape and torch.allclose(a.float(), b.float().to(a.device), rtol=0, atol=0, equal_nan=True)
