"""Calibration text that the model writes itself, for models without a fitting corpus.

As in LLM-QAT (Liu et al.: Data-Free Quantization Aware Training for Large Language Models, 2023): each text begins with
a random token and goes on by sampling from the model's own distribution.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lsprism.layers.compute_dtype import reading_many

BATCH = 32  # texts written at once


def own_windows(model: PreTrainedModel, samples: int, length: int, seed: int, special: list[int]) -> Tensor:
    """[samples, length] int64 tokens sampled at temperature 1; reproducible under `seed`, whatever the global state.

    `special`: ids that no text begins with and none contains, so that a text never ends early.
    """
    allowed = torch.ones(model.config.get_text_config().vocab_size, dtype=torch.bool)
    allowed[[token for token in special if token < len(allowed)]] = False
    choices = allowed.nonzero()[:, 0]
    cuda = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), torch.no_grad(), reading_many(model):
        torch.manual_seed(seed)
        starts = choices[torch.randint(len(choices), (samples, 1))]
        written = [_write(model, part.to(model.device), length, special) for part in starts.split(BATCH)]
    return torch.cat(written)


def _write(model: PreTrainedModel, starts: Tensor, length: int, special: list[int]) -> Tensor:
    """starts [batch, 1] -> [batch, length]."""
    texts = model.generate(
        input_ids=starts,
        attention_mask=torch.ones_like(starts),
        max_new_tokens=length - 1,
        min_new_tokens=length - 1,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        suppress_tokens=special or None,
        pad_token_id=special[0] if special else 0,
        remove_invalid_values=True,  # of a model with broken weights, which the walk over its blocks will name
    )
    return texts[:, :length].cpu()
