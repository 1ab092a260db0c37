"""Blocks and layers are found by structure; everything that is not compressed is listed with its reason."""

import json
import time

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

import lsprism
from lsprism.errors import SourceError
from lsprism.models.structure import build_meta_model, count_parameters, find_structure, is_linear

LLAMA_31_8B = dict(  # config.json of meta-llama/Llama-3.1-8B
    architectures=["LlamaForCausalLM"], attention_bias=False, bos_token_id=128000, eos_token_id=128001,
    hidden_act="silu", hidden_size=4096, intermediate_size=14336, max_position_embeddings=131072, mlp_bias=False,
    model_type="llama", num_attention_heads=32, num_hidden_layers=32, num_key_value_heads=8, rms_norm_eps=1e-05,
    rope_scaling=dict(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192,
        rope_type="llama3",
    ),
    rope_theta=500000.0, tie_word_embeddings=False, torch_dtype="bfloat16", vocab_size=128256,
)  # fmt: skip
SMALL = dict(
    vocab_size=30, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64,
)  # fmt: skip


def skeleton_of(tmp_path, family: str, **changes):
    config = AutoConfig.for_model(family, **SMALL | changes)
    config.save_pretrained(tmp_path)
    return build_meta_model(tmp_path, torch.bfloat16)


def reasons(model) -> dict[str, str]:
    return {row.name: row.reason for row in find_structure(model).left_alone}


def test_llama_31_8b_is_understood_from_its_config_alone(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_31_8B))
    started = time.monotonic()
    plan = lsprism.inspect(str(tmp_path), method="hybrid", sparsity=0.5)
    assert time.monotonic() - started < 10
    assert plan.model_parameters == 8_030_261_248
    assert len(plan.sites) == 224 and {p.site.block for p in plan.sites} == set(range(32))
    assert plan.dtype == "bfloat16" and plan.dense_stored_bytes == pytest.approx(2 * 8_030_261_248, rel=1e-4)
    assert sum(row.parameters for row in plan.left_alone) + sum(p.site.parameters for p in plan.sites) == 8_030_261_248


def test_a_skeleton_holds_no_weights_but_computes_its_buffers(tmp_path):
    model = skeleton_of(tmp_path, "llama")
    assert all(p.is_meta and p.dtype == torch.bfloat16 for p in model.parameters())
    assert model.model.rotary_emb.inv_freq[0] == 1.0


def test_the_buffers_of_a_skeleton_are_those_of_from_pretrained(tmp_path):
    """GPT-J computes its position table in the current default dtype."""
    config = AutoConfig.for_model("gptj", vocab_size=30, n_embd=32, n_head=4, n_layer=1, rotary_dim=8, n_positions=64)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    ours = dict(build_meta_model(tmp_path, torch.bfloat16).named_buffers())
    assert ours.keys() == dict(theirs.named_buffers()).keys() and ours
    for name, buffer in theirs.named_buffers():
        assert torch.equal(buffer, ours[name]), name


def test_every_linear_layer_of_a_block_is_found_in_order(tmp_path):
    anatomy = find_structure(skeleton_of(tmp_path, "llama", mlp_bias=True))
    leaves = [site.name.rpartition(".")[2] for site in anatomy.get_block_layers(1)]
    assert leaves == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    up, down = anatomy.get_block_layers(0)[-2:]
    assert (up.rows, up.columns, up.bias, up.transposed) == (48, 32, True, False)
    assert (down.name, down.rows, down.columns) == ("model.layers.0.mlp.down_proj", 32, 48)
    assert (anatomy.blocks, anatomy.count, anatomy.get_block_name(1)) == ("model.layers", 2, "model.layers.1")


def test_transposed_weights_are_recognized_by_their_module(tmp_path):
    config = AutoConfig.for_model("gpt2", vocab_size=30, n_embd=32, n_head=4, n_layer=2)
    config.save_pretrained(tmp_path)
    site = find_structure(build_meta_model(tmp_path, torch.float32)).get_block_layers(0)[0]
    assert (site.rows, site.columns, site.transposed, site.bias) == (96, 32, True, True)


def test_every_parameter_is_listed_once(tmp_path):
    for family, changes in {
        "llama": dict(tie_word_embeddings=True),
        "qwen2_moe": dict(num_experts=4, shared_expert_intermediate_size=24, moe_intermediate_size=24),
        "gpt_oss": dict(num_local_experts=4, head_dim=8),
    }.items():
        model = skeleton_of(tmp_path, family, **changes)
        anatomy = find_structure(model)
        counted = sum(site.parameters for site in anatomy.sites) + sum(row.parameters for row in anatomy.left_alone)
        assert counted == count_parameters(model)


def test_parts_that_are_not_compressed_have_a_reason(tmp_path):
    found = reasons(skeleton_of(tmp_path, "llama", tie_word_embeddings=False, attention_bias=True))
    assert found["model.embed_tokens.weight"].startswith("embedding")
    assert found["lm_head.weight"].startswith("LM head")
    assert found["model.norm.weight"] == found["model.layers.*.self_attn.q_proj.bias"] == "bias or norm: a vector"
    tied = reasons(skeleton_of(tmp_path, "llama", tie_word_embeddings=True))
    assert tied["model.embed_tokens.weight"].startswith("tied embedding and LM head")
    assert "lm_head.weight" not in tied


def test_fused_experts_and_gates_are_not_compressed(tmp_path):
    model = skeleton_of(
        tmp_path, "qwen2_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24,
        shared_expert_intermediate_size=24,
    )  # fmt: skip
    found = reasons(model)
    assert "3-D" in found["model.layers.*.mlp.experts.gate_up_proj"]
    assert found["model.layers.*.mlp.gate.weight"] == "not a standalone linear layer"
    assert "too small" in found["model.layers.*.mlp.shared_expert_gate.weight"]  # one output
    assert any(site.name.endswith("shared_expert.down_proj") for site in find_structure(model).sites)


def test_a_weight_used_without_its_layer_is_not_compressed(tmp_path):
    """Mamba multiplies by dt_proj.weight itself, which would fail with a packed layer."""
    config = AutoConfig.for_model("mamba", vocab_size=30, hidden_size=32, num_hidden_layers=2, time_step_rank=4)
    config.save_pretrained(tmp_path)
    model = build_meta_model(tmp_path, torch.float32)
    assert "without calling" in reasons(model)["backbone.layers.*.mixer.dt_proj.weight"]
    assert {site.name.rpartition(".")[2] for site in find_structure(model).sites} == {"in_proj", "x_proj", "out_proj"}


def test_the_text_decoder_is_chosen_even_if_the_vision_tower_is_larger(tmp_path):
    vision = dict(hidden_size=64, intermediate_size=256, num_hidden_layers=6, num_attention_heads=4, image_size=16)
    config = AutoConfig.for_model(
        "gemma3", text_config=SMALL | dict(head_dim=8), vision_config=vision | dict(patch_size=8)
    )
    config.save_pretrained(tmp_path)
    model = build_meta_model(tmp_path, torch.float32)
    anatomy = find_structure(model)
    assert anatomy.blocks.endswith("language_model.layers") and anatomy.count == 2
    tower = [row for row in anatomy.left_alone if "vision_tower" in row.name]
    assert tower and any(row.reason == "outside the decoder blocks" for row in tower)


def test_a_model_without_blocks_is_refused():
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.ModuleList([nn.LayerNorm(4)])

        def get_decoder(self) -> nn.Module:
            return self

    with pytest.raises(SourceError, match="Flat has no list of decoder blocks"):
        find_structure(Flat())


def test_subclasses_that_compute_a_linear_layer_are_accepted():
    class Same(nn.Linear):
        def forward(self, x):
            return x @ self.weight.T + self.bias

    class Louder(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    class Router(nn.Linear):
        def __init__(self, width: int) -> None:
            super().__init__(width, 2)

    assert is_linear(nn.Linear(3, 2)) and is_linear(Conv1D(2, 3)) and is_linear(Same(3, 2))
    assert not is_linear(Louder(3, 2)) and not is_linear(Router(3)) and not is_linear(nn.LayerNorm(3))
    with torch.device("meta"):  # as while transformers loads an artifact
        assert is_linear(Same(3, 2))
