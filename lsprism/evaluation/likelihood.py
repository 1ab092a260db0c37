"""Next-token logits and likelihoods, computed for a chunk of positions at a time.

The logits of a whole window would be large (2048 x 128k float32: 1 GB). Here the LM head is applied to as many
positions at a time as fit in LOGITS_BYTES, whatever the vocabulary size.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from lsprism.errors import NumericError
from lsprism.packed.compute_dtype import apply_compute_dtype

LOGITS_BYTES = 64 * 2**20  # size of one chunk of float32 logits [positions, vocabulary]
PROBE_TOKENS = 16


@torch.no_grad()
def compute_nll(model: PreTrainedModel, inputs: Tensor, targets: Tensor, plain: bool) -> list[float]:
    """-log p of targets [rows, m], summed over each row, in nats: log-softmax in float32, sums in float64.

    inputs [rows, n], n >= m: the last m of them each precede their target. `plain`: the result of has_plain_head.
    """
    wanted, losses, start = targets.flatten(), [], 0
    for logits in iter_logit_chunks(model, inputs, plain, skip=inputs.shape[1] - targets.shape[1]):
        target = wanted[start : start + len(logits)].to(logits.device)
        losses.append(F.cross_entropy(logits.float(), target, reduction="none"))
        start += len(logits)
    return torch.cat(losses).cpu().double().view(len(targets), -1).sum(1).tolist()


def iter_logit_chunks(model: PreTrainedModel, inputs: Tensor, plain: bool, skip: int = 0) -> Iterator[Tensor]:
    """Yield logits [<= positions, vocabulary] for inputs [rows, n] except the first `skip`, row by row."""
    inputs = inputs.to(model.device)
    return _iter_head_chunks(model, inputs, skip) if plain else _iter_forward_chunks(model, inputs, skip)


@torch.no_grad()
def _iter_head_chunks(model: PreTrainedModel, inputs: Tensor, skip: int) -> Iterator[Tensor]:
    """Apply the LM head to chunks, without the logits of a whole window in memory."""
    with apply_compute_dtype(model):
        hidden = model.base_model(input_ids=inputs, use_cache=False)[0][:, skip:].flatten(0, 1)
    for chunk in hidden.split(_count_positions(model)):
        with apply_compute_dtype(model):
            logits = model.get_output_embeddings()(chunk)
        yield logits


@torch.no_grad()
def _iter_forward_chunks(model: PreTrainedModel, inputs: Tensor, skip: int) -> Iterator[Tensor]:
    """Split the logits of the model's own forward, which computes those of a whole window."""
    for row in inputs.split(1):
        with apply_compute_dtype(model):
            logits = model(input_ids=row, use_cache=False).logits[0, skip:]
        yield from logits.split(_count_positions(model))


def _count_positions(model: PreTrainedModel) -> int:
    return max(1, LOGITS_BYTES // (4 * model.config.get_text_config().vocab_size))


@torch.no_grad()
def has_plain_head(model: PreTrainedModel, tokens: Tensor) -> bool:
    """Whether the logits are just the LM head applied to the base model's states (no soft cap, no scale).

    Tested by one forward pass over a few tokens of [rows, n], not read from the config, so that it works for any
    architecture.
    """
    base, head = model.base_model, model.get_output_embeddings()
    if base is model or head is None:
        return False
    seen: dict[str, Tensor] = {}

    def capture_states(module: torch.nn.Module, inputs: tuple, output: tuple) -> None:
        seen["states"] = output[0]

    def capture_head(module: torch.nn.Module, inputs: tuple, output: Tensor) -> None:
        seen["into head"], seen["out of head"] = inputs[0], output

    with (
        base.register_forward_hook(capture_states),
        head.register_forward_hook(capture_head),
        apply_compute_dtype(model),
    ):
        logits = model(input_ids=tokens[:1, :PROBE_TOKENS].to(model.device), use_cache=False).logits
    if seen.keys() != {"states", "into head", "out of head"}:
        return False
    return _is_same(seen["states"], seen["into head"]) and _is_same(seen["out of head"], logits)


def _is_same(a: Tensor, b: Tensor) -> bool:
    """Exactly equal after conversion to a wider dtype; NaN equals NaN."""
    return a.shape == b.shape and torch.allclose(a.float(), b.float().to(a.device), rtol=0, atol=0, equal_nan=True)


def check_finite(value: float, window: int, of: int) -> None:
    """Raise NumericError if `value` is NaN; `window` counts from 1."""
    if math.isnan(value):
        raise NumericError(
            f"The model's logits are NaN or infinite in window {window} of {of}.",
            "Load it in bfloat16 or float32; if the error persists, its weights are damaged.",
        )


def safe_exp(nll: float) -> float:
    """exp; infinity if the result exceeds float64 (math.exp raises)."""
    return torch.tensor(nll, dtype=torch.float64).exp().item()
