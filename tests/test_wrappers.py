"""Multimodal models: the kept part has one dtype and its processors, and dropped parts are reported."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from conftest import WORDS, make_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

import lsprism
import lsprism.hf  # noqa: F401 - registers the format

pytestmark = pytest.mark.usefixtures("one_thread")
TEXT = dict(
    vocab_size=len(WORDS), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=2,
)  # fmt: skip
GEMMA = (
    "gemma3", "Gemma3ForConditionalGeneration",
    TEXT | dict(layer_types=["sliding_attention", "full_attention"], sliding_window=8),
    dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
)  # fmt: skip
QWEN = (
    "qwen3_5", "Qwen3_5ForConditionalGeneration",
    TEXT | dict(
        layer_types=["linear_attention", "full_attention"], linear_num_key_heads=2, linear_num_value_heads=2,
        linear_key_head_dim=8, linear_value_head_dim=8,
    ),
    dict(hidden_size=16, intermediate_size=32, depth=1, num_heads=2, out_hidden_size=32),
)  # fmt: skip
PROCESSORS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")


def make_wrapper(folder: Path, family: str, kind: str, text: dict, vision: dict) -> Path:
    """A wrapper in bfloat16, which each part of its config repeats."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, text_config=text, vision_config=vision)
    getattr(transformers, kind)(config).to(torch.bfloat16).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    for name in PROCESSORS:
        (folder / name).write_text("{}")
    said = json.loads((folder / "config.json").read_text())
    for part in (said, said["text_config"], said["vision_config"]):
        part["dtype"] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(said))
    return folder


@pytest.mark.parametrize(("wrapper", "dropped"), [(GEMMA, False), (QWEN, True)], ids=["kept", "dropped"])
def test_a_wrapper_keeps_its_dtype_and_the_files_of_the_kept_part(wrapper, dropped, tmp_path, text_file):
    model, out = make_wrapper(tmp_path / "model", *wrapper), tmp_path / "out"
    plan = lsprism.inspect(model, dtype="float32")
    said = "Only the language model is compressed and saved (Qwen3_5ForCausalLM); dropped: vision."
    assert plan.dropped == (["vision_config"] if dropped else [])
    assert (said in plan.notes) == dropped
    calibration = dict(source=str(text_file), samples=1, length=8)
    how = dict(method="wanda", sparsity=1e-9, device="cpu", dtype="float32", calibration=calibration)
    lsprism.compress(model, out, **how)
    config = json.loads((out / "config.json").read_text())
    assert {part["dtype"] for part in (config, config["text_config"], config["vision_config"])} == {"float32"}
    assert [name for name in PROCESSORS if (out / name).is_file()] == ([] if dropped else list(PROCESSORS))
    ours, plain = lsprism.load(out, device="cpu"), AutoModelForCausalLM.from_pretrained(out)
    assert ours.dtype == ours.model.dtype == plain.dtype == torch.float32
    tokens = torch.arange(3, 15).unsqueeze(0)
    with torch.no_grad():
        before = lsprism.load(model, device="cpu", dtype="float32").model(input_ids=tokens).logits
        assert torch.equal(ours.model(input_ids=tokens).logits, before)
        assert torch.equal(plain(input_ids=tokens).logits, before)


def test_the_dtype_of_the_whole_takes_precedence_over_that_of_a_part(tmp_path):
    model = make_wrapper(tmp_path / "model", *GEMMA)
    said = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(said | {"dtype": "float32"}))
    assert lsprism.inspect(model).dtype == "float32"
    assert AutoModelForCausalLM.from_pretrained(model).dtype == torch.float32
