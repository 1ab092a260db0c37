"""Self-generated calibration text, for models without a suitable corpus.

As in LLM-QAT (Liu et al.: Data-Free Quantization Aware Training for Large Language Models, 2023): each text starts with
a random token and is continued by sampling from the model's own distribution.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from lsprism.models.tokens import count_embedding_rows
from lsprism.packed.compute_dtype import apply_compute_dtype
from lsprism.specs import CalibrationSpec

BATCH = 32  # texts generated at once


def generate_windows(
    model: PreTrainedModel, asked: CalibrationSpec, special: list[int], start: Sequence[int] = ()
) -> Tensor:
    """[samples, length] int64 tokens sampled at temperature 1, deterministic for a given seed.

    `special`: token ids that are never generated, so that a text does not end early. `start`: tokens at the beginning
    of every window.
    """
    allowed = torch.ones(min(count_embedding_rows(model), model.config.get_text_config().vocab_size), dtype=torch.bool)
    allowed[[token for token in special if token < len(allowed)]] = False
    choices = allowed.nonzero()[:, 0]
    cuda = [model.device] if model.device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=cuda),
        torch.no_grad(),
        _reset_generation_config(model),
        apply_compute_dtype(model),
    ):
        torch.manual_seed(asked.seed)
        begun = choices[torch.randint(len(choices), (asked.samples, 1))]
        begun = torch.cat([torch.tensor([start] * asked.samples, dtype=torch.int64), begun], dim=1)
        written = [_write(model, part.to(model.device), asked.length, special) for part in begun.split(BATCH)]
    return torch.cat(written)


@contextmanager
def _reset_generation_config(model: PreTrainedModel) -> Iterator[None]:
    """Disable the model's own generation settings (penalties, beams, multiple sequences), except its EOS tokens."""
    own = model.generation_config
    model.generation_config = GenerationConfig(eos_token_id=own.eos_token_id if own else None)
    try:
        yield
    finally:
        model.generation_config = own


def _write(model: PreTrainedModel, begun: Tensor, length: int, special: list[int]) -> Tensor:
    """`begun` [batch, n] -> [batch, length]."""
    more = length - begun.shape[1]
    writer: Any = model  # of a class that transformers mixes `generate` into
    texts = writer.generate(
        input_ids=begun,
        attention_mask=torch.ones_like(begun),
        max_new_tokens=more,
        min_new_tokens=more,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        suppress_tokens=special or None,
        pad_token_id=special[0] if special else 0,
        remove_invalid_values=True,  # NaN weights are reported later, with the layer's name
    )
    return texts[:, :length].cpu()
