"""Any decoder: blocks, sites, masks, positions and names of every family here are found without knowing the family."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from conftest import WORDS, make_tokenizer
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

import lsprism
import lsprism.hf  # noqa: F401 - registers the format
from lsprism.calibration import walk as walking
from lsprism.engine.blocks import BlockFeed
from lsprism.engine.plan import draft
from lsprism.layers.forms import LowRank, Sparse, SparseLowRank
from lsprism.layers.modules import PrismLinear
from lsprism.methods.stats import InputStats
from lsprism.models.source import resolve
from lsprism.specs import PlanSpec

LENGTH, SLIDING = 32, 8  # tokens a window; a window of attention that is shorter
COMMON = dict(
    vocab_size=len(WORDS),
    hidden_size=32,
    num_attention_heads=4,
    num_hidden_layers=2,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=2,
)
GATED = dict(num_key_value_heads=2, intermediate_size=48)
MOE = GATED | dict(num_experts=4, num_local_experts=4, num_experts_per_tok=2, moe_intermediate_size=24)
# Family -> what its config says beyond COMMON. In brackets: what sets it apart.
FAMILIES = {
    "llama": GATED,
    "llama-biased": GATED | dict(attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "qwen2": GATED | dict(tie_word_embeddings=True),  # biases of q, k, v only
    "qwen3": GATED | dict(head_dim=16),  # heads wider than the hidden size
    "mistral": GATED | dict(sliding_window=SLIDING),  # one mask, narrower than causal
    "gemma2": GATED | dict(head_dim=8, sliding_window=SLIDING),  # masks by layer, soft caps, scaled embedding
    "gemma3_text": GATED  # masks and rotary embeddings by layer
    | dict(head_dim=8, sliding_window=SLIDING, layer_types=["sliding_attention", "full_attention"]),
    "gemma3n_text": GATED  # hidden states of four dimensions, inputs by layer, keys shared between layers
    | dict(
        head_dim=8, hidden_size_per_layer_input=8, vocab_size_per_layer_input=len(WORDS), laurel_rank=4,
        num_hidden_layers=3, num_kv_shared_layers=1, intermediate_size=[48] * 3, activation_sparsity_pattern=[0.0] * 3,
        layer_types=["sliding_attention", "full_attention", "full_attention"], sliding_window=SLIDING,
    ),
    "phi3": GATED,  # fused q, k, v and gate, up
    "gpt2": {},  # weights stored transposed, learned positions, tied
    "opt": dict(ffn_dim=48, word_embed_proj_dim=32),  # the blocks' owner is not the base model
    "gpt_neox": dict(intermediate_size=48),
    "falcon": dict(new_decoder_architecture=False, multi_query=True),  # a linear class of its own
    "bloom": {},  # alibi, and residuals handed in by the block
    "olmo2": GATED,
    "starcoder2": GATED | dict(sliding_window=SLIDING, use_bias=True),
    "cohere": GATED | dict(use_qk_norm=True),
    "stablelm": GATED | dict(use_qkv_bias=True),
    "mixtral": MOE,  # experts as 3-D tensors, expert by expert in the checkpoint
    "qwen2_moe": MOE | dict(shared_expert_intermediate_size=24),
    "qwen3_moe": MOE | dict(head_dim=8),
    "gpt_oss": MOE | dict(head_dim=8, sliding_window=SLIDING, layer_types=["sliding_attention", "full_attention"]),
    "mamba": dict(state_size=8, time_step_rank=4),  # no attention at all
}  # fmt: skip
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """Family -> folder of a random float32 model, made once."""

    @cache
    def make(family: str) -> Path:
        folder = tmp_path_factory.mktemp("families") / family
        torch.manual_seed(0)
        config = AutoConfig.for_model(family.removesuffix("-biased"), **COMMON | FAMILIES[family])
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():  # no zero biases, no norms of one
                parameter.add_(torch.randn_like(parameter), alpha=0.15 if parameter.ndim > 1 else 0.05)
        model.save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="module")
def dense_of(folder_of):
    """Family -> the model as transformers itself loads it."""
    return lambda family: AutoModelForCausalLM.from_pretrained(folder_of(family), dtype=torch.float32).eval()


@pytest.fixture
def compressed(folder_of, text_file, tmp_path):
    def make(family: str, method: str, sparsity: float) -> Path:
        out = tmp_path / "out"
        lsprism.compress(
            folder_of(family), out, method=method, sparsity=sparsity, dtype="float32", device="cpu",
            calibration=dict(source=str(text_file), samples=6, length=LENGTH),
        )  # fmt: skip
        return out

    return make


def logits_of(model) -> torch.Tensor:
    tokens = torch.arange(48).reshape(2, 24) % (len(WORDS) - 3) + 3
    with torch.no_grad():
        return model(input_ids=tokens).logits


def walked(folder: Path, tokens: torch.Tensor) -> tuple[walking.Walk, dict[str, InputStats], str, int]:
    """Walk all blocks as the engine does, with nothing compressed."""
    made = draft(PlanSpec(model_id=str(folder), dtype="float32", device="cpu"), resolve(str(folder)))
    feed, anatomy = BlockFeed(made), made.anatomy
    walk, stats = feed.begin(tokens), {}
    for index in range(anatomy.count):
        block = feed.fill(index)
        sites = {site.name: made.model.get_submodule(site.name) for site in anatomy.of_block(index)}
        list(walk.collect(index, block, sites, stats, gram=True))
        list(walk.propagate(index, block))
        feed.release(index)
    assert all(parameter.is_meta for parameter in made.model.parameters())
    return walk, stats, anatomy.blocks, anatomy.count


@pytest.mark.parametrize("family", FAMILIES)
def test_the_walk_sees_what_the_model_sees(family, folder_of, dense_of, monkeypatch):
    """Hidden states after the last block and the statistics of every site: those of the model's own forward, bit for
    bit. Wrong masks, positions, names or dtypes would show here."""
    monkeypatch.setattr(walking, "BATCH_TOKENS", 2 * LENGTH)
    tokens = torch.randint(3, len(WORDS), (5, LENGTH), generator=torch.Generator().manual_seed(3))
    walk, stats, blocks, count = walked(folder_of(family), tokens)

    model, last, own = dense_of(family), [], {}

    def keep(_module, _args, output) -> None:
        last.append(output[0] if isinstance(output, tuple) else output)

    def measure(name: str):
        own[name] = InputStats(len(stats[name].squares), gram=True, batches=3)
        return lambda _module, args: own[name].add(args[0])

    model.get_submodule(f"{blocks}.{count - 1}").register_forward_hook(keep)
    for name in stats:
        model.get_submodule(name).register_forward_pre_hook(measure(name))
    with torch.no_grad():
        for part in tokens.split(2):
            model.base_model(input_ids=part, use_cache=False)
    for ours, theirs in zip(walk.hidden, last, strict=True):
        assert torch.equal(ours, theirs)
    assert own
    for name, stat in own.items():
        assert torch.equal(stat.gram, stats[name].gram), name
        assert torch.equal(stat.sample, stats[name].sample), name
        assert stat.tokens == stats[name].tokens == tokens.numel()


@pytest.mark.parametrize("method", ["wanda", "hybrid", "svd"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_artifact_loads_as_the_model_with_its_forms_in_place(family, method, compressed, dense_of):
    out = compressed(family, method, 0.5)
    loaded, model = AutoModelForCausalLM.from_pretrained(out).eval(), dense_of(family)
    forms = forms_of(out)
    assert forms and forms.keys() == {n for n, module in loaded.named_modules() if isinstance(module, PrismLinear)}
    state = loaded.state_dict()
    for name, tensor in model.state_dict().items():
        if name.removesuffix(".weight") not in forms:
            assert torch.equal(tensor, state[name]), name
    for name, form in forms.items():
        module = model.get_submodule(name)
        dense = form.dense()
        module.weight.data = dense.T.contiguous() if module.weight.shape != dense.shape else dense
        if type(module).__name__ == "Conv1D":
            module.weight.data = dense.T.contiguous()
        for part, tensor in form.tensors().items():
            assert torch.equal(tensor, state[f"{name}.{part}"])
    torch.testing.assert_close(logits_of(loaded), logits_of(model), atol=1e-4, rtol=1e-4)


def forms_of(artifact: Path) -> dict:
    """Name of a site -> its form, read from the files by the format's own words."""
    tensors = {}
    for path in artifact.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    modules = json.loads((artifact / "config.json").read_text())["quantization_config"]["modules"]
    shapes = {site.name: site for site in json_sites(artifact)}
    return {name: _form(entry["form"], name, tensors, shapes[name].columns) for name, entry in modules.items()}


def json_sites(artifact: Path) -> list:
    from lsprism.reports import Plan

    return [plan.site for plan in Plan.model_validate_json((artifact / "lsprism" / "plan.json").read_text()).sites]


def _form(kind: str, name: str, tensors: dict, columns: int):
    part = lambda leaf: tensors[f"{name}.{leaf}"]
    if kind == "low_rank":
        return LowRank(part("weight"), part("right"))
    sparse = Sparse(part("weight"), part("bitmap"), columns)
    return sparse if kind == "sparse" else SparseLowRank(sparse, LowRank(part("left"), part("right")))


@pytest.mark.parametrize("family", ["llama-biased", "gemma3_text", "gpt2", "opt", "mixtral"])
def test_what_would_be_larger_compressed_stays_as_it_was(family, compressed, dense_of):
    out = compressed(family, "wanda", 0.01)
    assert torch.equal(logits_of(AutoModelForCausalLM.from_pretrained(out).eval()), logits_of(dense_of(family)))
    assert not forms_of(out)
