"""Private parts of transformers and gradio are used in two files only, and are those of the versions tested here."""

import ast
import re
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from lsprism.models import transformers_private as private

ROOT = Path(__file__).parents[2]
TESTED = {"transformers": "5.23", "gradio": "6.31"}
HOMES = {"transformers": "lsprism/models/transformers_private.py", "gradio": "lsprism/ui/gradio_private.py"}
PRIVATE = re.compile(
    r"_is_hf_initialized|_get_dtype_plan|_keys_to_ignore_on_load_unexpected|_attn_implementation|_can_compile_fullgraph"
    r"|_output_attentions|_frontend\b|core_model_loading|conversion_mapping|integrations\.gguf|configuration_auto"
    r"|gradio\.components\.plot|gradio\.utils"
)


@pytest.mark.parametrize("package", TESTED)
def test_the_installed_version_is_the_tested_one(package):
    assert ".".join(version(package).split(".")[:2]) == TESTED[package]


def test_no_other_file_uses_private_parts():
    wrong = []
    for path in sorted((ROOT / "lsprism").rglob("*.py")):
        if path.relative_to(ROOT).as_posix() in HOMES.values():
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [getattr(node, "attr", None), getattr(node, "arg", None)]
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            wrong += [
                f"{path}:{node.lineno} {name}"
                for name in names
                if name and PRIVATE.fullmatch(name.removeprefix("transformers."))
            ]
    assert not wrong


def test_the_private_parts_of_a_model_exist():
    config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    assert private.get_dtype_plan(model, torch.bfloat16) == []
    assert private.get_attention(model.config) == "sdpa"
    assert private.can_compile(model)
    assert private.get_ignored_keys(model) == set()
    private.disable_attention_outputs(model.config)
    assert model.config.output_attentions is False
    weight = model.lm_head.weight.detach().clone()
    for parameter in model.parameters():
        private.mark_initialized(parameter)
    model.initialize_weights()
    assert torch.equal(model.lm_head.weight, weight)
