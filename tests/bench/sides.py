"""The models that speed.py compares. A side is a function: number of tokens -> seconds of each, decoded greedily, as a
continuation of everything it has decoded before."""

import time
from collections.abc import Callable

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache
from transformers.initialization import no_init_weights

from lsprism import api
from lsprism.generation.decode import decode_step, prefill
from lsprism.generation.sampler import Sampler
from lsprism.models.fused_decode import enable_fused_decode
from lsprism.models.module_utils import replace_module
from lsprism.packed.formats import Sparse, count_bytes
from lsprism.packed.modules import DenseLinear, PrismLinear
from lsprism.specs import GenerateSpec

Side = Callable[[int], list[float]]
FIRST_WORD = 100  # the prompt consists of the token ids from here on


def prompt_of(length: int) -> torch.Tensor:
    """[1, length]"""
    return torch.arange(length)[None] + FIRST_WORD


def side(model: nn.Module, prompt: int) -> Side:
    """LS-PRISM's own decode loop."""
    sampler = Sampler(GenerateSpec(greedy=True))
    logits, cache = prefill(model, prompt_of(prompt))
    token = sampler.sample(logits)

    def decode(count: int) -> list[float]:
        nonlocal token, cache
        seconds = []
        for _ in range(count):
            started = time.perf_counter()
            logits, cache = decode_step(model, token, cache)
            token = sampler.sample(logits)
            seconds.append(time.perf_counter() - started)
        return seconds

    return decode


def compiled_side(model: nn.Module, prompt: int, room: int) -> Side:
    """torch.compile with a static cache for `room` more tokens; a growing cache would cause recompilation."""
    cache = StaticCache(config=model.config, max_cache_len=prompt + room)
    with torch.inference_mode():
        logits = model(input_ids=prompt_of(prompt), past_key_values=cache, logits_to_keep=1).logits
    token, run = int(logits[0, -1].argmax()), torch.compile(model, dynamic=False)
    place = torch.tensor([[prompt]])

    @torch.inference_mode()
    def decode(count: int) -> list[float]:
        nonlocal token
        seconds = []
        for _ in range(count):
            started = time.perf_counter()
            output = run(input_ids=torch.tensor([[token]]), past_key_values=cache, position_ids=place)
            token = int(output.logits[0, -1].argmax())
            place.add_(1)
            seconds.append(time.perf_counter() - started)
        return seconds

    return decode


def load(model: str, dtype: str = "auto") -> nn.Module:
    return api.load(model, dtype=dtype).model


def load_fused(model: str, dtype: str) -> nn.Module:
    """A dense model with our kernels for dense matrices and fused decoding."""
    return fused(load(model, dtype))


def fused(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if type(module) is nn.Linear:
            DenseLinear.convert(module)
    enable_fused_decode(model)
    return model


def random_llama(dtype: torch.dtype) -> nn.Module:
    """TinyLlama's shape: 22 blocks, hidden size 2048, MLP 5632, 32 heads, 4 key-value heads; 1.1 B parameters."""
    sizes = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "vocab_size": 32000}
    torch.set_default_dtype(dtype)
    with no_init_weights():
        model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=32, num_key_value_heads=4)).eval()
    torch.set_default_dtype(torch.float32)
    some = torch.randn(1 << 20).to(dtype) * 0.02
    for parameter in model.requires_grad_(False).parameters():
        times = -(-parameter.numel() // some.numel())
        parameter.data.copy_(some.repeat(times)[: parameter.numel()].view_as(parameter))
        if parameter.dim() == 1:
            parameter.data.fill_(1)
    return model


def pruned(model: nn.Module, sparsity: float) -> nn.Module:
    """Prune a random fraction `sparsity` of the block weights; with fused decoding."""
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and name != "lm_head":
            places = torch.rand(module.weight.shape) >= sparsity
            replace_module(model, name, PrismLinear(Sparse.pack(module.weight.data, places)))
    return fused(model)


def layer_bytes(model: nn.Module) -> dict[str, float]:
    """Resident bytes of the compressed layers, absolute and relative to the same layers dense."""
    forms = [module.form for module in model.modules() if isinstance(module, PrismLinear)]
    dense = sum(form.to_dense().nbytes for form in forms)
    held = sum(map(count_bytes, forms))
    return {"layer_bytes": held, "layer_bytes_of_dense": held / dense}
