"""Any decoder architecture: blocks, layers, masks, positions and names are found without architecture-specific code."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from conftest import WORDS, make_tokenizer
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

import lsprism
import lsprism.hf  # noqa: F401 - registers the format
from lsprism.calibration import blockwise as walking
from lsprism.engine.blocks import BlockLoader
from lsprism.engine.plan import prepare_plan
from lsprism.errors import SourceError
from lsprism.methods import METHODS
from lsprism.methods.stats import InputStats
from lsprism.models.module_utils import get_weight, replace_module
from lsprism.models.source import resolve
from lsprism.models.structure import build_meta_model, get_stored_shapes
from lsprism.packed.formats import LowRank, PackedWeight, Sparse, SparseLowRank
from lsprism.packed.modules import PrismLinear
from lsprism.records.model_plan import Plan
from lsprism.specs import PlanSpec

pytestmark = pytest.mark.slow
LENGTH, SLIDING = 32, 8  # tokens per window; a shorter attention window
COMMON = dict(
    vocab_size=len(WORDS), hidden_size=32, num_attention_heads=4, num_hidden_layers=2, max_position_embeddings=64,
    bos_token_id=1, eos_token_id=2, pad_token_id=2,
)  # fmt: skip
GATED = dict(num_key_value_heads=2, intermediate_size=48)
MIXED = dict(sliding_window=SLIDING, layer_types=["sliding_attention", "full_attention"])
MOE = GATED | dict(num_experts=4, num_local_experts=4, num_experts_per_tok=2, moe_intermediate_size=24)
# Architecture -> its config beyond COMMON, and its special features.
FAMILIES = {
    "llama": GATED,
    "llama-biased": GATED | dict(attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "qwen2": GATED | dict(tie_word_embeddings=True),  # biases of q, k, v only
    "qwen3": GATED | dict(head_dim=16),  # heads wider than the hidden size
    "mistral": GATED | dict(sliding_window=SLIDING),  # a mask narrower than causal
    "gemma2": GATED | MIXED | dict(head_dim=8),  # masks by layer, soft caps, a scaled embedding
    "gemma3_text": GATED | MIXED | dict(head_dim=8),  # masks and rotary embeddings by layer
    "gemma3n_text": GATED | MIXED  # hidden states of four dimensions, inputs by layer, keys shared by layers
    | dict(
        head_dim=8, hidden_size_per_layer_input=8, vocab_size_per_layer_input=len(WORDS), laurel_rank=4,
        num_hidden_layers=3, num_kv_shared_layers=1, intermediate_size=[48] * 3, activation_sparsity_pattern=[0.0] * 3,
        layer_types=["sliding_attention", "full_attention", "full_attention"],
    ),
    "phi3": GATED,  # fused q, k, v and gate, up
    "gpt2": {},  # weights stored transposed, learned positions, tied
    "opt": dict(ffn_dim=48, word_embed_proj_dim=32),  # the blocks' owner is not the base model
    "gpt_neox": dict(intermediate_size=48),
    "falcon": dict(new_decoder_architecture=False, multi_query=True),  # a linear class of its own
    "bloom": {},  # alibi
    "olmo2": GATED,
    "starcoder2": GATED | dict(sliding_window=SLIDING, use_bias=True),
    "cohere": GATED | dict(use_qk_norm=True),
    "mixtral": MOE,  # experts as 3-D tensors, one by one in the checkpoint
    "qwen2_moe": MOE | dict(shared_expert_intermediate_size=24),
    "qwen3_moe": MOE | dict(head_dim=8),
    "gpt_oss": MOE | MIXED | dict(head_dim=8),  # attention sinks
    "mamba": dict(state_size=8, time_step_rank=4),  # no attention at all
    "openai-gpt": {},  # no cache at all
    "falcon_h1": GATED  # attention and Mamba side by side
    | dict(
        head_dim=8, mamba_d_ssm=64, mamba_n_groups=1, mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8,
        mamba_chunk_size=16,
    ),
    "zamba": GATED  # layers that several blocks share
    | dict(
        num_hidden_layers=4, layers_block_type=["mamba", "hybrid"] * 2, attention_hidden_size=64,
        attention_head_dim=16, mamba_d_state=8, mamba_dt_rank=4, n_mamba_heads=2,
    ),
}  # fmt: skip

# Every architecture with a method of each format, and the most common ones with all methods.
FEW = ("llama", "llama-biased", "qwen2", "qwen3", "mistral", "gemma3_text", "phi3", "gpt2", "opt", "gpt_neox")
PAIRS = [(family, method) for family in FAMILIES for method in (METHODS if family in FEW else ("hybrid", "svd"))]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """Architecture -> folder of a random float32 model, made once."""

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
    """Architecture -> the model as loaded by transformers."""
    return lambda family: AutoModelForCausalLM.from_pretrained(folder_of(family), dtype=torch.float32).eval()


@pytest.fixture
def compress(folder_of, text_file, tmp_path):
    """Architecture, method, sparsity -> folder of the artifact."""

    def make(family: str, method: str, sparsity: float) -> Path:
        calibration = dict(source=str(text_file), samples=6, length=LENGTH)
        how = dict(method=method, sparsity=sparsity, dtype="float32", device="cpu", calibration=calibration)
        return lsprism.compress(folder_of(family), tmp_path / "out", **how).save_path

    return make


@torch.no_grad()
def logits_of(model: nn.Module) -> Tensor:
    return model(input_ids=torch.arange(48).reshape(2, 24) % (len(WORDS) - 3) + 3).logits


def plan_of(artifact: Path) -> Plan:
    return Plan.model_validate_json((artifact / "lsprism" / "plan.json").read_text())


def stored(folder: Path) -> dict[str, Tensor]:
    tensors = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    return tensors


def forms_of(artifact: Path) -> dict[str, PackedWeight]:
    """Name of a packed layer -> its weight, read from the files as the format specifies."""
    tensors, forms = stored(artifact), {}
    columns = {plan.site.name: plan.site.columns for plan in plan_of(artifact).sites}
    for name, entry in json.loads((artifact / "config.json").read_text())["quantization_config"]["modules"].items():
        part = {leaf: tensors.get(f"{name}.{leaf}") for leaf in ("weight", "bitmap", "left", "right")}
        sparse = Sparse(part["weight"], part["bitmap"], columns[name])
        forms[name] = {
            "sparse": sparse,
            "low_rank": LowRank(part["weight"], part["right"]),
            "sparse_low_rank": SparseLowRank(sparse, LowRank(part["left"], part["right"])),
        }[entry["form"]]
    return forms


@pytest.mark.parametrize("family", FAMILIES)
def test_the_walk_sees_what_the_model_sees(family, folder_of, dense_of, monkeypatch):
    """Hidden states after the last block and the statistics of every layer equal those of the model's own forward, bit
    for bit: this detects wrong masks, positions, names or dtypes."""
    monkeypatch.setattr(walking, "BATCH_TOKENS", 2 * LENGTH)
    tokens = torch.randint(3, len(WORDS), (5, LENGTH), generator=torch.Generator().manual_seed(3))
    made = prepare_plan(
        PlanSpec(model_id=str(folder_of(family)), dtype="float32", device="cpu"), resolve(str(folder_of(family)))
    )
    feed, anatomy, stats = BlockLoader(made), made.anatomy, {}
    walk = feed.start(tokens)
    for index in range(anatomy.count):
        block = feed.load(index)
        sites = {site.name: made.model.get_submodule(site.name) for site in anatomy.get_block_layers(index)}
        list(walk.collect_stats(index, block, sites, stats, gram=True))
        list(walk.advance(index, block))
        feed.release(index)
    assert all(parameter.is_meta for parameter in made.model.parameters())
    last, own = _own_forward(dense_of(family), f"{anatomy.blocks}.{anatomy.count - 1}", stats, tokens)
    for ours, theirs in zip(walk.hidden, last, strict=True):
        assert torch.equal(ours, theirs)
    assert own
    for name, stat in own.items():
        assert torch.equal(stat.gram, stats[name].gram), name
        assert torch.equal(stat.sample, stats[name].sample), name
        assert stat.tokens == stats[name].tokens == tokens.numel()


def _own_forward(model, block: str, sites, tokens: Tensor) -> tuple[list[Tensor], dict[str, InputStats]]:
    last, own = [], {}
    model.get_submodule(block).register_forward_hook(lambda _, args, out: last.append(out if _is(out) else out[0]))
    for name in sites:

        def measure(_module, args, name=name) -> None:
            own.setdefault(name, InputStats(args[0].shape[-1], gram=True, batches=3)).add(args[0])

        model.get_submodule(name).register_forward_pre_hook(measure)
    with torch.no_grad():
        for part in tokens.split(2):
            model.base_model(input_ids=part, use_cache=False)
    return last, own


def _is(output) -> bool:
    return isinstance(output, Tensor)


@pytest.mark.parametrize(("family", "method"), PAIRS)
def test_an_artifact_loads_with_its_packed_weights(family, method, compress, dense_of):
    out = compress(family, method, 0.5)
    loaded, model, forms = AutoModelForCausalLM.from_pretrained(out).eval(), dense_of(family), forms_of(out)
    assert forms and forms.keys() == {name for name, part in loaded.named_modules() if isinstance(part, PrismLinear)}
    state = loaded.state_dict()
    for name, tensor in model.state_dict().items():
        if name.removesuffix(".weight") not in forms:
            assert torch.equal(tensor, state[name]), name
    transposed = {plan.site.name for plan in plan_of(out).sites if plan.site.transposed}
    for name, form in forms.items():
        for part, tensor in form.get_tensors().items():
            assert torch.equal(tensor, state[f"{name}.{part}"]), name
        dense = form.to_dense()
        model.get_submodule(name).weight.data = dense.T.contiguous() if name in transposed else dense
    torch.testing.assert_close(logits_of(loaded), logits_of(model), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_unchanged_if_everything_is_kept(family, compress, dense_of):
    """From files, where all layers stay dense, and packed in place, where every bit of every bitmap is set."""
    model = dense_of(family)
    before = logits_of(model)
    out = compress(family, "svd" if family in FEW else "wanda", 1e-9)
    assert not forms_of(out)
    loaded, state = AutoModelForCausalLM.from_pretrained(out).eval(), model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
    torch.testing.assert_close(logits_of(loaded), before, atol=1e-5, rtol=1e-5)  # different alignment
    for site in (plan.site for plan in plan_of(out).sites):
        weight = get_weight(model, site)
        form = Sparse.pack(weight, torch.ones_like(weight, dtype=torch.bool))
        replace_module(model, site.name, PrismLinear(form, model.get_submodule(site.name).bias))
    torch.testing.assert_close(logits_of(model), before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_layers_that_would_grow_stay_dense(folder_of, method):
    plans = lsprism.inspect(folder_of("llama"), method=method, sparsity=0.01, dtype="float32").sites
    dense = {plan.form == "dense" for plan in plans}
    assert dense == {not method.startswith("svd")}, "factors within a budget are always smaller"
    kept = lsprism.inspect(folder_of("llama"), method=method, sparsity=1e-9, dtype="float32").sites
    assert {(plan.form, plan.note) for plan in kept} == {("dense", "stays dense: the budget covers all parameters")}


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss"])
def test_fused_experts_are_listed_and_unchanged(family, compress, dense_of):
    out = compress(family, "wanda", 0.5)
    alone = [part for part in plan_of(out).left_alone if ".experts." in part.name and "3-D" in part.reason]
    state, loaded = dense_of(family).state_dict(), AutoModelForCausalLM.from_pretrained(out).state_dict()
    experts = [name for name, tensor in state.items() if tensor.ndim == 3]
    assert experts and sum(part.parameters for part in alone) == sum(state[name].numel() for name in experts)
    assert all(torch.equal(loaded[name], state[name]) for name in experts)


def test_an_unsupported_structure_is_refused(tmp_path, text_file):
    config = AutoConfig.for_model("hrm_text", **COMMON | GATED | dict(head_dim=8))  # runs its blocks in a loop
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "loop")
    make_tokenizer().save_pretrained(tmp_path / "loop")
    with pytest.raises(SourceError, match="once each and in order"):
        lsprism.compress(
            tmp_path / "loop", tmp_path / "out", method="wanda", calibration=dict(source=str(text_file), samples=1)
        )


# --- a real architecture ----------------------------------------------------------------------------------------------


def write_llama_31(folder: Path) -> None:
    """Llama-3.1-8B's config cut to two blocks, random bfloat16 weights, one file for each tensor outside the blocks."""
    rope = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
    AutoConfig.for_model(
        "llama", vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=2,
        num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=131072, rope_theta=500000.0,
        rope_scaling=rope | dict(rope_type="llama3"), rms_norm_eps=1e-5, tie_word_embeddings=False, dtype="bfloat16",
        bos_token_id=1, eos_token_id=2, architectures=["LlamaForCausalLM"],
    ).save_pretrained(folder)  # fmt: skip
    make_tokenizer().save_pretrained(folder)
    pool = torch.randn(2**22 + 1, generator=torch.Generator().manual_seed(0)).mul_(0.02).bfloat16()
    files: dict[str, list[str]] = {}
    shapes = get_stored_shapes(build_meta_model(folder, torch.bfloat16))
    for name in shapes:
        files.setdefault(".".join(name.split(".")[:3]) + ".safetensors", []).append(name)
    for file, names in files.items():  # a pool of odd length, so that rows differ
        parts = {n: pool.repeat(-(-shapes[n].numel() // len(pool)))[: shapes[n].numel()] for n in names}
        save_file({n: part.reshape(shapes[n]).contiguous() for n, part in parts.items()}, folder / file)
    index = {"weight_map": {name: file for file, names in files.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.slow
def test_llama_31_8b_cut_to_two_blocks(tmp_path, text_file):
    folder, out = tmp_path / "llama", tmp_path / "out"
    write_llama_31(folder)
    calibration = dict(source=str(text_file), samples=2, length=64)
    report = lsprism.compress(folder, out, method="wanda", sparsity=0.5, device="cpu", calibration=calibration)
    assert len(report.layers) == 14 and {layer.form for layer in report.layers} == {"sparse"}
    assert report.layer_stored_bytes == report.layer_dense_bytes * 9 // 16
    assert report.stored_bytes == plan_of(out).stored_bytes
    assert report.peak_memory_bytes < 4e9
    name = "model.layers.1.mlp.down_proj"
    kept, weight = forms_of(out)[name].to_dense(), stored(folder)[f"{name}.weight"]
    assert (kept != 0).sum(dim=1).max() <= 14336 // 2
    assert torch.equal(kept[kept != 0], weight[kept != 0])
    del kept, weight
    made = lsprism.load(out, device="cpu")  # generates with packed weights
    assert logits_of(made.model).isfinite().all()
    assert sum(isinstance(part, PrismLinear) for part in made.model.modules()) == 14
