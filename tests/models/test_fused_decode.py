"""Fused single-token decoding gives the results of the model's own code, and is skipped where it does not apply."""

import copy
import gc
import shutil
import weakref

import pytest
import torch
from torch import nn
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    StaticCache,
)

from lsprism.models.fused_decode import disable_fused_decode, enable_fused_decode
from lsprism.models.module_utils import replace_module
from lsprism.packed.formats import LowRank, Sparse, SparseLowRank
from lsprism.packed.kernels.build import list_usable_levels
from lsprism.packed.kernels.cpu import PackedBlock
from lsprism.packed.kernels.dispatch import use_kernel
from lsprism.packed.modules import DenseLinear, PrismLinear

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
LEVELS = list_usable_levels()
KINDS = {
    "llama": (LlamaConfig, LlamaForCausalLM, {"attention_bias": True}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": 5}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 20}),
}
PROMPT = torch.tensor([[1, 5, 6, 7, 9, 3, 8]])


def make(kind="llama", dtype=torch.float32, fused=True):
    """A random model of two blocks whose layers are sparse, sparse + low-rank, or dense."""
    config, model, extra = KINDS[kind]
    torch.manual_seed(0)
    sizes = {"vocab_size": 24, "hidden_size": 40, "intermediate_size": 51, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
    model = model(config(**sizes, **heads, **extra)).to(dtype).eval().requires_grad_(False)
    for norm in model.modules():
        if type(norm).__name__.endswith("RMSNorm"):
            norm.weight.data = torch.rand_like(norm.weight) + 0.5
    for name, layer in list(model.named_modules()):
        if type(layer) is nn.Linear and name.endswith(("q_proj", "v_proj", "gate_proj")):
            rows, columns = layer.weight.shape
            form = Sparse.pack(layer.weight.data, torch.rand(rows, columns) < 0.5)
            if name.endswith("gate_proj"):
                form = SparseLowRank(form, LowRank(torch.randn(rows, 3).to(dtype), torch.randn(3, columns).to(dtype)))
            replace_module(model, name, PrismLinear(form, layer.bias))
        elif type(layer) is nn.Linear:
            DenseLinear.convert(layer)
    if fused:
        enable_fused_decode(model)
    return model


@pytest.fixture
def calls(monkeypatch):
    """Records every fused block step."""
    made = []
    plain = PackedBlock.compute_output
    monkeypatch.setattr(PackedBlock, "compute_output", lambda *args: made.append(1) or plain(*args))
    return made


@torch.no_grad()
def logits(model, tokens=6, **settings):
    """Logits at the end of a prompt and for some tokens after it, decoded one by one."""
    cache, found = DynamicCache(config=model.config), []
    model(PROMPT, past_key_values=cache)
    for token in range(tokens):
        output = model(torch.tensor([[token + 3]]), past_key_values=cache, **settings)
        found.append(output.logits)
    return torch.cat(found, dim=1)


@pytest.mark.parametrize("level", [*(pytest.param(level, marks=pytest.mark.slow) for level in LEVELS[:-1]), LEVELS[-1]])
def test_levels_agree_with_the_models_own_code(level, calls):
    wanted = logits(make(fused=False))
    with use_kernel(level):
        torch.testing.assert_close(logits(make()), wanted, rtol=1e-4, atol=1e-4)
    assert len(calls) == 12


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.float16, 6e-3), (torch.bfloat16, 5e-2)])
def test_families_agree_with_their_own_code(kind, dtype, error, calls):
    with use_kernel("reference"):
        wanted = logits(make(kind, torch.float32, fused=False)).double()
    model = make(kind, torch.float32)
    for module in model.modules():  # not model.to(), which would also round the rotary frequencies
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(dtype)
    found = logits(model).double()
    assert (found - wanted).norm() <= error * wanted.norm()
    assert len(calls) == 12 or kind == "mistral"  # whose window may need a mask


@torch.no_grad()
def test_a_cache_of_fixed_size():
    found = []
    for model in (make(), make(fused=False)):
        cache = StaticCache(config=model.config, max_cache_len=32)
        model(PROMPT, past_key_values=cache)
        found.append(model(torch.tensor([[4]]), past_key_values=cache).logits)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


def test_long_past_and_threads(calls):
    model, own = make(), make(fused=False)
    cache, other = DynamicCache(), DynamicCache()
    tokens = torch.randint(3, 24, (1, 700))
    with torch.no_grad():
        for one, past in ((model, cache), (own, other)):
            one(tokens, past_key_values=past)
        found, wanted = (m(PROMPT[:, :1], past_key_values=p).logits for m, p in ((model, cache), (own, other)))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert len(calls) == 2


def test_cases_without_fused_decoding(calls):
    model = make()
    wanted = logits(make(fused=False))
    heard = model.model.layers[0].mlp.register_forward_hook(lambda *_: calls.append("heard"))
    torch.testing.assert_close(logits(model, 1), wanted[:, :1], rtol=1e-4, atol=1e-4)
    assert calls.count("heard") == 2 and calls.count(1) == 1
    heard.remove()
    calls.clear()
    with use_kernel("reference"):
        logits(model)
    logits(model, output_attentions=True)
    model(torch.tensor([[3], [4]]), past_key_values=DynamicCache())  # two sequences
    model(PROMPT[:, :1], use_cache=False)
    assert not calls


def test_hidden_states_are_unchanged():
    found = make()(PROMPT[:, :1], past_key_values=DynamicCache(), output_hidden_states=True).hidden_states
    wanted = make(fused=False)(PROMPT[:, :1], output_hidden_states=True).hidden_states
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_replaced_weights_are_used(calls):
    model, own = make(), make(fused=False)
    logits(model)
    for change in (_scale_a_norm, _replace_a_layer, _replace_values, _reload):
        change(model)
        change(own)
        torch.testing.assert_close(logits(model), logits(own), rtol=1e-4, atol=1e-4)
    twin = copy.deepcopy(model)
    _scale_a_norm(model)
    torch.testing.assert_close(logits(twin), logits(own), rtol=1e-4, atol=1e-4)
    assert logits(model.half()).dtype is torch.float16
    assert len(calls) == 7 * 12


def _scale_a_norm(model):
    norm = model.model.layers[1].input_layernorm
    norm.weight = nn.Parameter(norm.weight * 1.5, requires_grad=False)


def _replace_a_layer(model):
    torch.manual_seed(1)
    form = Sparse.pack(torch.randn(51, 40), torch.rand(51, 40) < 0.3)
    replace_module(model, "model.layers.0.mlp.up_proj", PrismLinear(form))


def _replace_values(model):
    layer = model.model.layers[0].mlp.up_proj
    layer.weight = nn.Parameter(layer.weight * -2, requires_grad=False)


def _reload(model):
    state = {
        name: tensor * 0.9 if tensor.is_floating_point() else tensor for name, tensor in model.state_dict().items()
    }
    model.load_state_dict(state)


def test_it_can_be_disabled_and_releases_its_tensors(calls):
    model = make()
    kind = type(model.model.layers[0])
    logits(model)
    held = weakref.ref(model.model.layers[0].mlp.up_proj.weight)
    disable_fused_decode(model)
    assert type(model.model.layers[0]) is kind.__base__ and kind.__name__ == "LlamaDecoderLayer"
    calls.clear()
    torch.testing.assert_close(logits(model), logits(make(fused=False)), rtol=1e-4, atol=1e-4)
    assert not calls
    del model
    gc.collect()
    assert held() is None
