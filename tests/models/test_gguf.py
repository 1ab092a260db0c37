"""A GGUF file is converted once to a folder with the same model; a broken one is an error and leaves nothing."""

import json
import shutil
import threading
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from lsprism.errors import SourceError
from lsprism.models.gguf import build_once, get_gguf_folder, is_whole, read_gguf
from lsprism.models.source import resolve

# Byte-level vocabulary: specials, digits, letters, a space (written Ġ), two spaces as one token.
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"0123456789", *"abcdefgh", "Ġ", "ĠĠ", "ab"]
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LSPRISM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def gguf_name(name: str) -> str:
    """model.layers.0.mlp.up_proj.weight -> blk.0.ffn_up.weight"""
    stem = name.removesuffix(".weight")
    if stem.startswith("model.layers."):
        block, part = stem.removeprefix("model.layers.").split(".", 1)
        return f"blk.{block}.{NAMES[part]}.weight"
    return f"{NAMES[stem]}.weight"


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp stores each head's rows [2, d/2] as [d/2, 2] in q and k."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_gguf(path: Path, model: LlamaForCausalLM, leave_out: str = "", scaling: dict | None = None) -> Path:
    """`scaling`: further keys, and tensors as arrays."""
    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_name("A title that is not a Hub id")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    for key, value in (scaling or {}).items():
        if isinstance(value, np.ndarray):
            writer.add_tensor(key, value)
        else:
            add = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32, bool: writer.add_bool}
            add[type(value)](f"llama.rope.scaling.{key}", value)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * 3 + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(["Ġ Ġ", "a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        weight, kind = tensor.float().numpy(), name.split(".")[-2]
        if gguf_name(name) != leave_out:
            writer.add_tensor(gguf_name(name), interleaved(weight, heads[kind]) if kind in heads else weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def model(tiny_folder) -> LlamaForCausalLM:
    """The tiny Llama with as many tokens as TOKENS."""
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    torch.manual_seed(1)
    model.resize_token_embeddings(len(TOKENS), mean_resizing=False)
    return model.eval()


@pytest.fixture
def file(model, tmp_path) -> Path:
    return write_gguf(tmp_path / "tiny.gguf", model)


def test_the_folder_holds_the_same_model_and_its_tokenizer(file, model, home):
    source = resolve(str(file))
    assert source.kind == "gguf" and source.base_model == "tiny" and not source.config_only
    loaded = AutoModelForCausalLM.from_pretrained(source.folder)
    ids = torch.tensor([[1, 5, 12, 20, 3]])
    assert loaded.dtype == torch.bfloat16
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits)
    tokenizer = AutoTokenizer.from_pretrained(source.folder)
    assert tokenizer.decode(tokenizer.encode("ab cd")) == "ab cd"
    assert tokenizer.apply_chat_template([{"role": "user", "content": "abc"}], tokenize=False) == "abc"
    assert home in source.folder.parents


LLAMA3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
# 8192 / wavelength is above 4 for the first two of four frequencies, below 1 for the last, and in between for one.
DIVISORS = np.array([1, 1, 1 / ((1 - (1.8438 - 1) / 3) / 8 + (1.8438 - 1) / 3), 8], dtype=np.float32)


@pytest.mark.parametrize(
    ("rope", "scaling"),
    [
        ({"rope_type": "linear", "factor": 4.0}, {"type": "linear", "factor": 4.0, "finetuned": True}),
        (
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
            {"type": "yarn", "factor": 4.0, "original_context_length": 64, "yarn_ext_factor": 1.0},
        ),
        ({"rope_type": "llama3"} | LLAMA3, {"rope_freqs.weight": DIVISORS}),
        ({"rope_type": "default"}, {"type": "none"}),
        ({"rope_type": "default"}, {"rope_freqs.weight": np.ones(4, dtype=np.float32)}),
    ],
    ids=["linear", "yarn", "llama3", "none", "ones"],
)
def test_rope_scaling_is_read_from_the_file(model, tmp_path, rope, scaling):
    theta = 500000.0
    config = LlamaConfig(**model.config.to_dict() | {"rope_parameters": {"rope_theta": theta} | rope})
    scaled = LlamaForCausalLM(config).eval()
    scaled.load_state_dict(model.state_dict())
    folder = get_gguf_folder(write_gguf(tmp_path / "scaled.gguf", scaled, scaling=scaling))
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ours, theirs = loaded.model.rotary_emb, scaled.model.rotary_emb
    torch.testing.assert_close(ours.inv_freq, theirs.inv_freq, rtol=1e-4, atol=0)
    assert ours.attention_scaling == pytest.approx(theirs.attention_scaling)
    plain = theta ** -(torch.arange(4) / 4)
    assert torch.allclose(ours.inv_freq, plain) == (rope["rope_type"] == "default")


@pytest.mark.parametrize(
    ("scaling", "said"),
    [
        ({"type": "longrope", "factor": 4.0}, "scaling longrope"),
        ({"type": "yarn", "factor": 4.0, "yarn_log_multiplier": 0.1}, "yarn_log_multiplier"),
        ({"rope_freqs.weight": np.array([1, 2, 3, 4], dtype=np.float32)}, "does not match Llama 3"),
        ({"rope_factors_long.weight": np.ones(4, dtype=np.float32)}, "LongRoPE"),
        ({"type": "linear", "factor": 4.0, "rope_freqs.weight": DIVISORS}, "twice"),
    ],
    ids=["longrope", "yarn", "divisors", "phi3", "twice"],
)
def test_unsupported_rope_scalings_are_errors(model, tmp_path, scaling, said):
    config = LlamaConfig(**model.config.to_dict() | {"rope_parameters": {"rope_theta": 500000.0}})
    file = write_gguf(tmp_path / "scaled.gguf", LlamaForCausalLM(config), scaling=scaling)
    with pytest.raises(SourceError, match=f"scaled.gguf .*{said}") as refused:
        get_gguf_folder(file)
    assert "safetensors" in refused.value.hint


def test_spaces_before_a_digit_are_split_as_in_training(file):
    tokenizer = AutoTokenizer.from_pretrained(get_gguf_folder(file))
    assert tokenizer.tokenize("a  12") == ["a", "ĠĠ", "1", "2"]


def test_config_names_the_file_without_a_path(file, tmp_path):
    text = (get_gguf_folder(file) / "config.json").read_text()
    assert json.loads(text)["_name_or_path"] == "tiny"
    assert not any(word in text for word in (str(tmp_path), "quantization", "A title"))
    assert str(tmp_path) not in (get_gguf_folder(file) / "tokenizer_config.json").read_text()


def test_the_same_bytes_are_converted_once_and_other_bytes_again(file, model, tmp_path, monkeypatch):
    first = get_gguf_folder(file)
    other = get_gguf_folder(write_gguf(tmp_path / "other.gguf", model, leave_out="output.weight"))  # tied head
    copy = shutil.copy(file, tmp_path / "copy.gguf")
    monkeypatch.setattr("lsprism.models.gguf.read_gguf", lambda file: pytest.fail("converted again"))
    assert get_gguf_folder(Path(copy)) == first != other


def test_transformers_is_silenced_only_during_the_conversion(file, capsys):
    transformers_logging.enable_progress_bar()
    before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    capsys.readouterr()
    read_gguf(file)
    assert capsys.readouterr() == ("", "")
    assert before == (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled())


def test_a_missing_tensor_is_an_error_instead_of_random_weights(model, tmp_path):
    file = write_gguf(tmp_path / "hole.gguf", model, leave_out="blk.1.ffn_up.weight")
    with pytest.raises(SourceError, match=r"layers\.1\.mlp\.up_proj"):
        get_gguf_folder(file)


@pytest.mark.parametrize("length", [4, 8, 300, -1000])
def test_a_truncated_file_is_an_error_and_leaves_nothing(file, home, length):
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(SourceError, match="cannot be read") as caught:
        resolve(str(file))
    assert caught.value.hint
    assert [path for path in (home / "cache").iterdir() if path.is_dir()] == []


def test_another_format_is_recognized_by_its_first_bytes(tmp_path, home):
    (tmp_path / "x.gguf").write_text("<html>not found</html>")
    with pytest.raises(SourceError, match="is not a GGUF file"):
        resolve(str(tmp_path / "x.gguf"))
    assert not home.exists()


def test_a_folder_is_complete_or_absent(tiny_folder, tmp_path):
    target = tmp_path / "made"

    def stop_halfway(folder: Path) -> None:
        shutil.copy(tiny_folder / "config.json", folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_once(target, stop_halfway)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_remains_of_a_killed_process_are_removed(tiny_folder, tmp_path):
    target, staged = tmp_path / "made", tmp_path / "made.staged"
    staged.mkdir()
    (staged / "half").write_text("x")
    build_once(target, lambda folder: shutil.copytree(tiny_folder, folder, dirs_exist_ok=True))
    assert is_whole(target) and not (target / "half").exists() and not staged.exists()


@pytest.mark.parametrize("lost", ["model.safetensors", "config.json", "tokenizer.json"])
def test_an_incomplete_folder_is_made_again(tiny_folder, tmp_path, lost):
    target = shutil.copytree(tiny_folder, tmp_path / "made")
    (target / lost).unlink()
    build_once(target, lambda folder: shutil.copytree(tiny_folder, folder, dirs_exist_ok=True))
    assert (target / lost).is_file()


def test_two_processes_make_it_once(tiny_folder, tmp_path):
    made = []

    def make(folder: Path) -> None:
        made.append(folder)
        time.sleep(0.2)
        shutil.copytree(tiny_folder, folder, dirs_exist_ok=True)

    threads = [threading.Thread(target=build_once, args=(tmp_path / "made", make)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and is_whole(tmp_path / "made")


def test_a_full_disk_is_an_error_with_a_next_step(tmp_path):
    def make(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(SourceError, match="No space left on device.*LSPRISM_HOME"):
        build_once(tmp_path / "made", make)
    assert not (tmp_path / "made.staged").exists()
