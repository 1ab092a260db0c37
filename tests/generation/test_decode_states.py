"""The memory of any architecture is used, whatever its name; a model without one reads the text again."""

import threading
from functools import cache

import pytest
import torch
from conftest import WORDS, make_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from lsprism import api, evaluation_api
from lsprism.chat import ModelRequest
from lsprism.chat.messages import Failed, Generate, Load, TokenChunk
from lsprism.chat.worker_engine import Engine
from lsprism.generation.decode import TextRead, decode_step, prefill
from lsprism.specs import GenerateSpec

pytestmark = pytest.mark.usefixtures("one_thread")

COMMON = dict(
    vocab_size=len(WORDS), hidden_size=32, num_attention_heads=4, num_hidden_layers=2, max_position_embeddings=256,
    bos_token_id=1, eos_token_id=2, pad_token_id=2,
)  # fmt: skip
GATED = dict(num_key_value_heads=2, intermediate_size=48)
MAMBA2 = dict(mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8, mamba_chunk_size=16)
SHARED = dict(
    num_hidden_layers=4,
    layers_block_type=["mamba", "hybrid"] * 2,
    attention_hidden_size=64,
    attention_head_dim=16,
    mamba_d_state=8,
)
FAMILIES = {
    "mamba": dict(state_size=8, time_step_rank=4),
    "mamba2": dict(state_size=8, num_heads=4, head_dim=16, n_groups=1, chunk_size=16),
    "falcon_mamba": dict(state_size=8, time_step_rank=4),
    "rwkv": dict(attention_hidden_size=32, intermediate_size=64, context_length=256),
    "openai-gpt": {},  # no cache
    "falcon_h1": GATED | MAMBA2 | dict(mamba_d_ssm=64, mamba_n_groups=1, head_dim=8),
    "qwen3_next": GATED
    | dict(
        head_dim=8, linear_num_value_heads=4, linear_num_key_heads=2, linear_key_head_dim=8, linear_value_head_dim=8,
        layer_types=["linear_attention", "full_attention"], num_experts=4, num_experts_per_tok=2,
        moe_intermediate_size=24, shared_expert_intermediate_size=24,
    ),
    "jamba": GATED
    | dict(
        num_hidden_layers=4, attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1,
        num_experts=2, mamba_d_state=8, mamba_dt_rank=4,
    ),
    "zamba": GATED | SHARED | dict(mamba_dt_rank=4, n_mamba_heads=2),  # layers shared by blocks
    "zamba2": GATED
    | SHARED
    | dict(num_mem_blocks=1, mamba_ngroups=1, n_mamba_heads=8, mamba_headdim=8, chunk_size=16,
           adapter_rank=4),
    "bamba": GATED | MAMBA2 | dict(attn_layer_indices=[1]),  # counts positions from 0 unless they are passed
}  # fmt: skip
TEXT = [1, 5, 6, 7, 9, 3, 8, 12, 4, 6]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    @cache
    def make(family: str):
        folder = tmp_path_factory.mktemp("families") / family
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, **COMMON | FAMILIES[family])
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.15 if parameter.ndim > 1 else 0.02)
        model.save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_equal_one_pass_over_the_text(family, folder_of):
    model = AutoModelForCausalLM.from_pretrained(folder_of(family), dtype=torch.float32).eval()
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([TEXT]), use_cache=False).logits[0]
    logits, memory = prefill(model, torch.tensor([TEXT[:5]]))
    found = [logits]
    for token in TEXT[5:]:
        logits, memory = decode_step(model, token, memory)
        found.append(logits)
    torch.testing.assert_close(torch.stack(found), wanted[4:], rtol=1e-3, atol=1e-4)
    assert isinstance(memory, TextRead) == (family == "openai-gpt")


def test_a_chat_continues_in_architectures_without_a_kv_cache(folder_of):
    told = []
    seats = {"left": ModelRequest(model_id=folder_of("mamba")), "right": ModelRequest(model_id=folder_of("openai-gpt"))}
    engine = Engine(told.append)
    engine.load(Load(work=1, seats=seats))
    spec = GenerateSpec(max_new_tokens=4, greedy=True, ignore_eos=True)
    engine.generate(
        Generate(work=2, seats=seats, prompts=dict.fromkeys(seats, "the river"), spec=spec), threading.Event()
    )
    assert not [news for news in told if isinstance(news, Failed)]
    spoken = {
        slot: [t for n in told if isinstance(n, TokenChunk) and n.slot == slot for t in n.tokens] for slot in seats
    }
    assert all(len(tokens) == 4 for tokens in spoken.values())


LOOPED = ("mamba", "rwkv", "openai-gpt", "falcon_h1", "qwen3_next", "jamba", "zamba")
QUICK = ("mamba", "zamba")


@pytest.mark.parametrize("family", [f if f in QUICK else pytest.param(f, marks=pytest.mark.slow) for f in LOOPED])
def test_the_whole_loop_from_compression_to_evaluation(family, folder_of, text_file, tmp_path):
    calibration = {"source": str(text_file), "samples": 4, "length": 32}
    folder = folder_of(family)
    report = api.compress(folder, tmp_path / "out", sparsity=0.1, device="cpu", calibration=calibration)
    assert report.kept_parameters < report.model_parameters
    loaded = api.load(tmp_path / "out", "cpu")
    pieces = list(api.stream_generate(loaded, "a river", GenerateSpec(max_new_tokens=4, greedy=True, ignore_eos=True)))
    assert len(pieces) == 4
    text = ",text" if family == "mamba" else ""  # its encoder takes a second
    asked = {"measures": f"sizes,perplexity,kl,word-perplexity{text}", "dataset": str(text_file), "context": 32}
    asked |= {"windows": 2, "tasks": "logic", "limit": 1, "answer_tokens": 3}
    found = evaluation_api.evaluate(tmp_path / "out", measuring=asked, device="cpu")
    assert found.baseline and found.agreement.kl < 0.1 and len(found.tasks) == bool(text)
