"""Our reader gives the tensors that `from_pretrained` loads, or an error with one sentence, for generated folders."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from conftest import WORDS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

import lsprism
from lsprism.errors import DamagedError, LSPrismError, SourceError
from lsprism.models.structure import build_meta_model, get_stored_shapes
from lsprism.models.ties import get_tied_names
from lsprism.models.weights import INDEX, SINGLE, WeightFiles

pytestmark = pytest.mark.usefixtures("one_thread")
EXAMPLES = int(os.environ.get("LSPRISM_EXAMPLES", "60"))
COMMON = dict(vocab_size=len(WORDS), hidden_size=16, num_attention_heads=2, num_hidden_layers=2, bos_token_id=1)
# As on the Hub: with a prefix, without one, expert by expert, several projections in one tensor, other names.
FAMILIES = {
    "llama": dict(num_key_value_heads=1, intermediate_size=24, max_position_embeddings=32),
    "gpt2": dict(n_positions=32),
    "mixtral": dict(num_key_value_heads=1, intermediate_size=24, num_local_experts=3, max_position_embeddings=32),
    "opt": dict(ffn_dim=24, word_embed_proj_dim=16, max_position_embeddings=32),
    "gpt_neox": dict(intermediate_size=24, max_position_embeddings=32),
    "deepseek_v3": dict(
        intermediate_size=24, moe_intermediate_size=8, num_key_value_heads=2, n_routed_experts=2, num_experts_per_tok=1,
        n_group=1, topk_group=1, q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=4,
        first_k_dense_replace=1,
    ),
}  # fmt: skip
PREFIX = {"gpt2": "transformer.", "gpt_neox": "gpt_neox."}
HEADS = {"gpt_neox": ("embed_out.weight", "gpt_neox.embed_in.weight")}
HARMLESS = ("other_head", "same_head", "head_alone", "no_prefix", "own_names", "half", "spare", "unlisted")
ODD = (*HARMLESS, "twice", "both_prefixes", "missing", "shape", "integers", "bias", "block", "nan_head", "misplaced")


@dataclass
class Folder:
    """A model folder to modify: its tensors, and the files listed in the index."""

    family: str
    tensors: dict[str, Tensor]
    random: torch.Generator
    shards: int = 1
    hidden: str = ""  # not in the index
    misplaced: str = ""  # in the index, in another file
    twice: str = ""  # in two files, with different values

    def pick(self, part: str = ".") -> str:
        names = sorted(name for name in self.tensors if part in name) or sorted(self.tensors)
        return names[int(torch.randint(len(names), (), generator=self.random))]

    def like(self, name: str) -> Tensor:
        shape = self.tensors[name].shape
        return torch.randn(shape, generator=self.random).to(self.tensors[name].dtype)

    @property
    def head(self) -> str:
        return HEADS.get(self.family, ("lm_head.weight",))[0]

    @property
    def embedding(self) -> str:
        ends = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
        return next((name for name in self.tensors if name.endswith(ends)), self.head)


def spoil(folder: Folder, fault: str) -> None:  # noqa: C901, PLR0912 - a table of faults
    tensors, name = folder.tensors, folder.pick()
    if fault in ("other_head", "nan_head"):
        tensors[folder.head] = folder.like(folder.embedding)
        if fault == "nan_head":
            tensors[folder.head] = tensors[folder.embedding] = torch.full_like(tensors[folder.head], float("nan"))
    elif fault == "same_head":
        tensors[folder.head] = tensors[folder.embedding].clone()
    elif fault == "head_alone":
        tensors[folder.head] = tensors.pop(folder.embedding)
    elif fault == "no_prefix":
        prefix = PREFIX.get(folder.family, "model.")
        for key in [key for key in tensors if key.startswith(prefix)]:
            tensors[key.removeprefix(prefix)] = tensors.pop(key)
    elif fault == "both_prefixes":
        tensors[name.partition(".")[2]] = folder.like(name)
    elif fault == "half":
        tensors[name] = tensors[name].half()
    elif fault == "integers":
        tensors[name] = tensors[name].int()
    elif fault == "spare":
        tensors["v_head.summary.weight"] = torch.zeros(2, 16)
    elif fault == "missing":
        del tensors[name]
    elif fault == "shape":
        tensors[name] = tensors[name][..., :-1].clone()
    elif fault == "bias":
        tensors[folder.pick(".weight").replace(".weight", ".extra")] = torch.zeros(16)
    elif fault == "block":
        key = folder.pick(".1.")
        tensors[key.replace(".1.", ".2.")] = folder.like(key)
    else:
        folder.shards = 3
        field = {"unlisted": "hidden"}.get(fault, fault)
        if field != "own_names":
            setattr(folder, field, name)


def write(folder: Folder, path: Path) -> None:
    names = sorted(folder.tensors)
    files = [f"model-{n + 1:05d}-of-{folder.shards:05d}.safetensors" for n in range(folder.shards)]
    held = {file: {k: folder.tensors[k] for k in names[n :: folder.shards]} for n, file in enumerate(files)}
    index = {key: file for file, part in held.items() for key in part if key != folder.hidden}
    if folder.twice in folder.tensors:
        other = files[int(torch.randint(3, (), generator=folder.random))]
        held[other][folder.twice] = folder.like(folder.twice)
    if folder.misplaced in index:
        index[folder.misplaced] = files[int(torch.randint(3, (), generator=folder.random))]
    for file, part in held.items():
        to = SINGLE if folder.shards == 1 else file
        save_file({key: t.contiguous().clone() for key, t in part.items()}, path / to, metadata={"format": "pt"})
    if folder.shards > 1:
        (path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))


@pytest.fixture(scope="module", autouse=True)
def quiet():
    """Silences transformers, which logs details about every modified folder."""
    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    yield
    logging.set_verbosity(level)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(family, tied) -> folder of a model in float32, and its tensors by the model's own names."""
    made = {}

    def make(family: str, tied: bool) -> tuple[Path, dict[str, Tensor]]:
        if (family, tied) not in made:
            torch.manual_seed(0)
            config = AutoConfig.for_model(family, **COMMON | FAMILIES[family], tie_word_embeddings=tied)
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            folder = tmp_path_factory.mktemp("saved") / f"{family}-{tied}"
            model.save_pretrained(folder)
            ties = get_tied_names(model)
            made[family, tied] = folder, {k: t.clone() for k, t in model.state_dict().items() if k not in ties}
        return made[family, tied]

    return make


def ours(folder: Path, dtype: torch.dtype) -> dict[str, Tensor] | None:
    """None: an error with one sentence and a next step."""
    try:
        model = build_meta_model(folder, dtype)
        read = WeightFiles(folder, model).read(get_stored_shapes(model))
    except LSPrismError as error:
        assert error.hint and error.message.endswith(".") and "\n" not in error.message
        return None
    return read | {name: read[kept] for name, kept in get_tied_names(model).items()}


def theirs(folder: Path, dtype: torch.dtype) -> dict[str, Tensor] | None:
    """None: it does not load completely."""
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (RuntimeError, KeyError):
        return None
    lost = info["missing_keys"] - get_tied_names(model).keys() or info["mismatched_keys"]
    return None if lost else model.state_dict()


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES <= 60,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    tied=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    faults=st.lists(st.sampled_from(ODD), max_size=3, unique=True),
    seed=st.integers(0, 999),
)
def test_every_tensor_is_that_of_from_pretrained_or_the_folder_is_an_error(
    saved, tmp_path, family, tied, dtype, faults, seed
):
    source, own = saved(family, tied)
    path = tmp_path / "model"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    shutil.copy(source / "config.json", path)
    tensors = dict(own) if "own_names" in faults else load_file(source / SINGLE)
    folder = Folder(family, tensors, torch.Generator().manual_seed(seed))
    for fault in sorted(faults, key=ODD.index):
        spoil(folder, fault)
    write(folder, path)
    read, loaded = ours(path, dtype), theirs(path, dtype)
    if read is None:
        harmless = set(faults) <= set(HARMLESS) and (tied or "head_alone" not in faults)
        assert loaded is None or not harmless, "an error without a reason"
        return
    assert loaded is not None, "from_pretrained does not load it"
    assert read.keys() == loaded.keys()
    for name, tensor in loaded.items():
        assert read[name].dtype == tensor.dtype, name
        assert torch.equal(read[name].nan_to_num(7), tensor.nan_to_num(7)), name


# --- tied in the config, but not in the files -------------------------------------------------------------------------


@pytest.fixture
def two_heads(saved, tmp_path) -> Path:
    """Tied by its config, but the file has a different LM head."""
    from conftest import make_model

    folder = make_model(tmp_path / "two", tied=True)
    tensors = load_file(folder / SINGLE)
    tensors["lm_head.weight"] = torch.randn_like(tensors["model.embed_tokens.weight"]) * 0.3
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    return folder


def logits_of(folder: Path) -> Tensor:
    with torch.no_grad():
        return lsprism.load(folder, device="cpu").model(input_ids=torch.arange(3, 19).unsqueeze(0)).logits.float()


def test_an_untied_head_is_kept_by_compression_and_export(two_heads, text_file, tmp_path):
    plan = lsprism.inspect(two_heads)
    assert plan.untied and any("ties lm_head.weight" in note for note in plan.notes)
    assert plan.model_parameters == lsprism.inspect(two_heads, sparsity=0.9).model_parameters
    calibration = dict(source=str(text_file), samples=2, length=16)
    how = dict(method="wanda", sparsity=1e-9, device="cpu", calibration=calibration)
    lsprism.compress(two_heads, tmp_path / "out", **how)
    before = logits_of(two_heads)
    assert torch.equal(logits_of(tmp_path / "out"), before)
    for source in (two_heads, tmp_path / "out"):
        dense = lsprism.export(source, tmp_path / f"dense-{source.name}")
        assert json.loads((dense / "config.json").read_text())["tie_word_embeddings"] is False
        assert torch.equal(logits_of(dense), before)


def test_a_head_equal_to_the_embedding_stays_tied(two_heads):
    tensors = load_file(two_heads / SINGLE)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, two_heads / SINGLE, metadata={"format": "pt"})
    plan = lsprism.inspect(two_heads)
    assert not plan.untied and "lm_head.weight" not in str(plan.notes)


# --- unexpected tensors -----------------------------------------------------------------------------------------------


def test_more_blocks_than_in_the_config_are_named_with_their_file(saved, tmp_path):
    source, _ = saved("llama", False)
    folder = shutil.copytree(source, tmp_path / "more")
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 1, "layer_types": None}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(SourceError, match=r"model\.safetensors contains model\.layers\.1\..* model\.layers has only 1"):
        lsprism.inspect(folder)


def test_multi_token_prediction_blocks_are_skipped_as_in_transformers(saved, tmp_path):
    source, _ = saved("deepseek_v3", False)
    folder = shutil.copytree(source, tmp_path / "more")
    config = json.loads((folder / "config.json").read_text()) | {"num_nextn_predict_layers": 1}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / SINGLE)
    tensors["model.layers.2.eh_proj.weight"] = torch.zeros(16, 32)
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    assert ours(folder, torch.float32) is not None


def test_experts_that_do_not_fit_together_are_named(saved, tmp_path):
    source, _ = saved("mixtral", False)
    folder = shutil.copytree(source, tmp_path / "odd")
    tensors = load_file(folder / SINGLE)
    name = next(name for name in tensors if ".experts.1.w1." in name)
    tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    with pytest.raises(DamagedError, match=r"experts\.gate_up_proj cannot be built from .*model\.safetensors: stack"):
        lsprism.inspect(folder)
