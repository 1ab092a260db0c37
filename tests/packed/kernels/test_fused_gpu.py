"""Blocks on a recent GPU, whose kernels run on the CPU here: as the model's own code, in few launches."""

import functools
import shutil

import on_host
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

from lsprism.models.fused_decode import enable_fused_decode
from lsprism.models.module_utils import replace_module
from lsprism.packed import modules
from lsprism.packed.formats import LowRank, Sparse, SparseLowRank
from lsprism.packed.kernels import dispatch, gpu, streamed
from lsprism.packed.modules import PrismLinear

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="no g++"),
]
WARPS = 2
KINDS = {
    "llama": (LlamaConfig, LlamaForCausalLM, {"attention_bias": True, "mlp_bias": True, "head_dim": 64}),
    "mistral": (MistralConfig, MistralForCausalLM, {"head_dim": 64, "sliding_window": 5}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 128}),
}
PROMPT = torch.tensor([[1, 5, 6, 7, 9, 3, 8, 2, 14]])  # more tokens than are few


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kernels")
    multiply = functools.cache(
        lambda around: on_host.compile_kernel(folder, 1, half=False, int8=False, warps=WARPS, around=around)
    )
    return multiply, functools.cache(lambda: on_host.compile_rotary(folder, half=False))


@pytest.fixture
def launches(monkeypatch, compiled):
    """What is started on a GPU that is none."""
    made, (multiply, rotary) = [], compiled

    def launch(group, x, tokens=1, around=gpu.NOTHING):
        made.append(group.rows)
        given = x.reshape(2 if around.gated else 1, -1)
        return torch.cat(on_host.multiply(multiply(around is not gpu.NOTHING), group, given, 1, around=around), 1)[0]

    def rotate(*given):
        made.append("rotary")
        return on_host.rotate(rotary(), *given)

    def pack(forms, biases):
        return (
            streamed._pack(forms, [getattr(form, "sparse", form) for form in forms], biases, torch.device("cpu"))
            if dispatch.get_active_kernel() == "auto"
            else None
        )

    monkeypatch.setattr(gpu, "launch_group", launch)
    monkeypatch.setattr(gpu, "unpack_group", None)
    monkeypatch.setattr(gpu, "rotate_heads", rotate)
    monkeypatch.setattr(gpu, "count_blocks", lambda device: 3)
    monkeypatch.setattr(gpu, "shared_bytes", lambda device: 100_000)
    monkeypatch.setattr(gpu, "WARPS", WARPS)
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: not tensor.is_meta))
    monkeypatch.setattr(dispatch, "is_readable", lambda form, bias: False)
    monkeypatch.setattr(dispatch, "is_on_gpu", lambda form, bias: None)
    monkeypatch.setattr(modules, "on_recent_gpu", pack)
    return made


def make(kind: str, dense: str = "") -> nn.Module:
    config, model, extra = KINDS[kind]
    torch.manual_seed(0)
    sizes = {"vocab_size": 24, "hidden_size": 128, "intermediate_size": 104, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.1}
    model = model(config(**sizes, **heads, **extra)).bfloat16().eval().requires_grad_(False)
    for norm in model.modules():
        if type(norm).__name__.endswith("RMSNorm"):
            norm.weight.data = (torch.rand(norm.weight.shape) + 0.5).bfloat16()
    for name, layer in list(model.named_modules()):
        if type(layer) is nn.Linear and name != "lm_head" and name != dense:
            rows, columns = layer.weight.shape
            form = Sparse.pack(layer.weight.data, torch.rand(rows, columns) < 0.5)
            left, right = torch.randn(rows, 3) * 0.1, torch.randn(3, columns) * 0.1
            if name.endswith(("gate_proj", "o_proj", "v_proj")):
                form = SparseLowRank(form, LowRank(left.bfloat16(), right.bfloat16()))
            replace_module(model, name, PrismLinear(form, layer.bias))
    return model


@torch.no_grad()
def read(model: nn.Module, cache) -> torch.Tensor:
    """Logits at the end of a prompt and of two tokens after it."""
    found = [model(PROMPT, past_key_values=cache).logits[0, -1]]
    found += [model(torch.tensor([[token]]), past_key_values=cache).logits[0, -1] for token in (4, 11)]
    return torch.stack(found).float()


@pytest.mark.parametrize("static", [False, True], ids=["growing cache", "static cache"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_agrees_with_the_models_own_code(launches, kind, static):
    model = make(kind)

    def cache():
        return StaticCache(model.config, max_cache_len=16) if static else DynamicCache(config=model.config)

    with dispatch.use_kernel("reference"):
        wanted = read(model, cache())
    enable_fused_decode(model)
    found = read(model, cache())
    assert (found - wanted).abs().max() < 0.03 * wanted.abs().max()
    width = 128 if kind == "qwen3" else 64
    block = [[2 * width, width, width], "rotary", [128], [104, 104], [128]]
    assert launches == 2 * 2 * block


@pytest.mark.parametrize("dense", ["model.layers.0.mlp.up_proj", "model.layers.0.self_attn.k_proj"])
def test_a_block_with_a_layer_that_is_not_packed_runs_the_models_own_code(launches, dense):
    model = make("llama", dense)
    enable_fused_decode(model)
    read(model, DynamicCache(config=model.config))
    assert launches.count("rotary") == 2, "of the other block"


def test_hooks_and_gradients_run_the_models_own_code(launches):
    model = make("llama")
    enable_fused_decode(model)
    seen = []
    model.model.layers[0].mlp.register_forward_hook(lambda *_: seen.append(1))
    read(model, DynamicCache(config=model.config))
    assert len(seen) == 3 and launches.count("rotary") == 2
