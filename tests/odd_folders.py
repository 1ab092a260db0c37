"""Tiny model folders as users have them: saved by other tools, truncated, quantized, with all kinds of settings.

Each function below changes a copy of one valid folder, a Llama of two blocks with a word-level tokenizer. Its entry in
ODD defines the expected result.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from conftest import WORDS, make_tokenizer
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing

REMOVE = object()
FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
Build = Callable[[Path], Any]  # changes a folder in place
VERBS = ("inspect", "compress", "generate")


@dataclass(frozen=True)
class Odd:
    """`says`: pattern of the error of the commands in `by`; others may give the same error or work. Without `says`, all
    of them work. `works`: those in `by` may work too, as long as the model is the one that transformers loads.
    """

    build: Build
    says: str = ""
    by: tuple[str, ...] = VERBS
    works: bool = False
    words: dict[str, str] = field(default_factory=dict)  # command -> additional arguments
    copies: tuple[str, ...] = ()  # files that must be copied to the artifact


def change(path: Path, **entries: Any) -> None:
    """Set entries of a JSON object; REMOVE deletes one."""
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    after = {name: value for name, value in (before | entries).items() if value is not REMOVE}
    path.write_text(json.dumps(after), encoding="utf-8")


def config(**entries: Any) -> Build:
    return lambda folder: change(folder / "config.json", **entries)


def generation(**entries: Any) -> Build:
    return lambda folder: change(folder / "generation_config.json", **entries)


def content(name: str, text: str) -> Build:
    """Replace the content of one file."""
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


def tensors(change_them: Callable[[dict[str, torch.Tensor]], None]) -> Build:
    """Change the weights in place."""

    def build(folder: Path) -> None:
        held = load_file(folder / FILE)
        change_them(held)
        save_file({name: part.contiguous() for name, part in held.items()}, folder / FILE, {"format": "pt"})

    return build


def both(*builds: Build) -> Build:
    def build(folder: Path) -> None:
        for one in builds:
            one(folder)

    return build


def sharded(change_index: Callable[[dict[str, str]], Any] = lambda index: None) -> Build:
    """Split the weights into two files, block 0 and the rest, with an index that is changed in place."""

    def build(folder: Path) -> None:
        held, index = load_file(folder / FILE), {}
        (folder / FILE).unlink()
        for number in (1, 2):
            name = f"model-0000{number}-of-00002.safetensors"
            part = {key: value for key, value in held.items() if (".0." in key) == (number == 1)}
            save_file(part, folder / name, {"format": "pt"})
            index |= dict.fromkeys(part, name)
        change_index(index)
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))

    return build


def family(name: str, **settings: Any) -> Build:
    """Another architecture instead of Llama."""

    def build(folder: Path) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.manual_seed(0)
        common = {"vocab_size": len(WORDS), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
        made = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **common, **ids, **settings))
        made.save_pretrained(folder)

    return build


def tokens(**settings: Any) -> Build:
    """Change the tokenizer: chat template, special tokens, tokens around every text."""

    def build(folder: Path) -> None:
        made = make_tokenizer()
        if around := settings.get("around"):
            special = [("<s>", 1), ("</s>", 2)]
            made.backend_tokenizer.post_processor = TemplateProcessing(single=around, special_tokens=special)
        if special := settings.get("special"):
            made.add_special_tokens(special)
        made.chat_template = settings.get("template", made.chat_template)
        made.save_pretrained(folder)

    return build


def without(*names: str) -> Build:
    return lambda folder: [(folder / name).unlink(missing_ok=True) for name in names]


def packed(*leaves: str) -> Build:
    """Store projections as integers under other names, as quantized checkpoints do."""

    def pack(held: dict[str, torch.Tensor]) -> None:
        for key in [key for key in held if key.endswith("_proj.weight")]:
            rows, columns = held.pop(key).shape
            for leaf in leaves:
                held[key.replace("weight", leaf)] = torch.ones(rows, max(1, columns // 8), dtype=torch.int32)

    return tensors(pack)


def quantized(**how: Any) -> Build:
    return both(config(quantization_config=how), packed("weight_packed", "weight_scale"))


def other_head(held: dict[str, torch.Tensor]) -> None:
    held["lm_head.weight"] = torch.randn(held["model.embed_tokens.weight"].shape).to(torch.bfloat16)


def same_head(held: dict[str, torch.Tensor]) -> None:
    held["lm_head.weight"] = held["model.embed_tokens.weight"].clone()


def third_block(held: dict[str, torch.Tensor]) -> None:
    held |= {key.replace(".1.", ".2."): value.clone() for key, value in held.items() if ".1." in key}


def twice(folder: Path) -> None:
    """Store a tensor of the first file in the second one too, with other values; the index lists one of them."""
    first, second = (folder / f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
    key = "model.layers.0.mlp.up_proj.weight"
    save_file({**load_file(second), key: load_file(first)[key] + 1}, second, {"format": "pt"})


def cut_short(folder: Path) -> None:
    data = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(data[: len(data) // 2])


def to_float32(held: dict[str, torch.Tensor]) -> None:
    held.update({key: value.float() for key, value in held.items()})


def named_templates(folder: Path) -> None:
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    named = [{"name": name, "template": template} for name in ("rag", "tool_use")]
    change(folder / "tokenizer_config.json", chat_template=named)


def template_folder(folder: Path) -> None:
    (folder / "additional_chat_templates").mkdir()
    shutil.copy(folder / "chat_template.jinja", folder / "additional_chat_templates" / "tool_use.jinja")


def adapter(folder: Path) -> None:
    (folder / FILE).unlink()
    save_file({"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(2, 32)},
              folder / "adapter_model.safetensors")  # fmt: skip
    change(folder / "adapter_config.json", peft_type="LORA", base_model_name_or_path="org/base")


def multimodal(folder: Path) -> None:
    """A text model in a wrapper with a vision tower, in bfloat16, which each part of the config repeats."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {"vocab_size": len(WORDS), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 32}
    text |= {"layer_types": ["sliding_attention", "full_attention"], "pad_token_id": 2, "eos_token_id": 2}
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14}
    torch.manual_seed(0)
    whole = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=3)
    Gemma3ForConditionalGeneration(whole).to(torch.bfloat16).save_pretrained(folder)
    for part in ("text_config", "vision_config"):
        inner = json.loads((folder / "config.json").read_text())[part]
        change(folder / "config.json", dtype="bfloat16", **{part: {**inner, "dtype": "bfloat16"}})
    change(folder / "preprocessor_config.json", image_processor_type="Gemma3ImageProcessor", size={"height": 28})
    change(folder / "processor_config.json", processor_class="Gemma3Processor", image_seq_length=4)


LONG = "the river " * 60
LIST_TEMPLATE = (
    "{% for m in messages %}{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}then "
)
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n"
MAP_NAMES = r"model\.safetensors\.index\.json"
WEIGHTS = ("compress", "generate")  # commands that read weights

ODD: dict[str, Odd] = {
    "sound": Odd(lambda folder: None),
    # The stored tensors do not match the config.
    "tied, and the same head twice": Odd(both(config(tie_word_embeddings=True), tensors(same_head))),
    "tied, and another head": Odd(
        both(config(tie_word_embeddings=True), tensors(other_head)), r"lm_head\.weight", WEIGHTS, works=True
    ),
    "more blocks than the config counts": Odd(tensors(third_block), r"model\.layers\.2\.", WEIGHTS),
    "fewer blocks than the config counts": Odd(config(num_hidden_layers=3), r"model\.layers\.2\.", WEIGHTS),
    "other shapes": Odd(config(intermediate_size=64), r"_proj\.weight.*\(48, 32\)|_proj\.weight", WEIGHTS),
    "config in bfloat16, weights in float32": Odd(tensors(to_float32)),
    "a tensor in two files": Odd(both(sharded(), twice), r"layers\.0\.mlp\.up_proj\.weight", WEIGHTS, works=True),
    "an index that omits a tensor": Odd(
        sharded(lambda index: index.pop("model.norm.weight")), r"model\.norm\.weight", WEIGHTS, works=True
    ),
    "an index that names another file": Odd(
        sharded(lambda index: index.update({"model.norm.weight": "model-00001-of-00002.safetensors"})),
        r"model\.norm\.weight", WEIGHTS, works=True,
    ),
    "an index with a single file": Odd(content(INDEX, '{"weight_map": {"a": "b.safetensors"}}')),
    "sharded": Odd(sharded()),
    "weights cut short": Odd(cut_short, r"model\.safetensors", WEIGHTS),
    "weights of a Git LFS pointer": Odd(content(FILE, POINTER), r"Git LFS", WEIGHTS),
    "config of a Git LFS pointer": Odd(content("config.json", POINTER), r"Git LFS"),
    # Malformed JSON.
    "architectures is a text": Odd(config(architectures="LlamaForCausalLM"), r"architectures", works=True),
    "architectures is null": Odd(config(architectures=None)),
    "weight map is null": Odd(both(sharded(), content(INDEX, '{"weight_map": null}')), MAP_NAMES),
    "weight map is a list": Odd(both(sharded(), content(INDEX, '{"weight_map": ["a"]}')), MAP_NAMES),
    "weight map of numbers": Odd(both(sharded(), content(INDEX, '{"weight_map": {"a": 1}}')), MAP_NAMES),
    "no weight map": Odd(both(sharded(), content(INDEX, '{"metadata": {}}')), MAP_NAMES),
    "index is a list": Odd(both(sharded(), content(INDEX, "[]")), MAP_NAMES),
    "index cut short": Odd(both(sharded(), content(INDEX, '{"weight_map": {"a"')), MAP_NAMES),
    "config is null": Odd(content("config.json", "null"), r"config\.json"),
    "config is a list": Odd(content("config.json", "[1]"), r"config\.json"),
    "config cut short": Odd(content("config.json", '{"model_type": "lla'), r"config\.json"),
    "config is not UTF-8": Odd(lambda folder: (folder / "config.json").write_bytes(b"\xff{}"), r"config\.json"),
    "model type is a list": Odd(config(model_type=["llama"]), r"model_type"),
    "model type is null": Odd(config(model_type=None), r"model_type"),
    "dtype with torch before it": Odd(config(dtype="torch.bfloat16"), r"dtype", works=True),
    "dtype auto": Odd(config(dtype="auto"), r"dtype", works=True),
    "unknown dtype": Odd(config(dtype="float99"), r"dtype.*float99|float99.*dtype", works=True),
    "a number is a text": Odd(config(num_hidden_layers="two"), r"num_hidden_layers"),
    "quantization is a text": Odd(config(quantization_config="none"), r"quantization_config", works=True),
    "generation config is null": Odd(
        content("generation_config.json", "null"), r"generation_config\.json", works=True
    ),
    "generation config cut short": Odd(
        content("generation_config.json", "{"), r"generation_config\.json", works=True
    ),
    "tokenizer config is a list": Odd(
        content("tokenizer_config.json", "[]"), r"tokenizer", WEIGHTS, works=True
    ),
    "tokenizer cut short": Odd(content("tokenizer.json", '{"version"'), r"tokenizer", WEIGHTS),
    # Settings that must not affect results.
    "answers as dicts": Odd(generation(return_dict_in_generate=True, output_scores=True)),
    "two answers at once": Odd(generation(do_sample=True, num_return_sequences=2)),
    "beams and penalties": Odd(generation(num_beams=4, repetition_penalty=2.0, no_repeat_ngram_size=1)),
    "greedy with a temperature": Odd(generation(do_sample=False, temperature=0.6, top_p=0.9)),
    "outputs as tuples": Odd(config(return_dict=False)),
    "no cache": Odd(config(use_cache=False)),
    "attention of another package": Odd(config(attn_implementation="flash_attention_2"), r"FlashAttention", works=True),
    "several ends of a text": Odd(
        both(config(eos_token_id=[2, 5], pad_token_id=None), without("generation_config.json"))
    ),
    # Tokenizers and templates.
    "every text begins": Odd(tokens(around="<s> $A")),
    "every text ends": Odd(tokens(around="$A </s>")),
    "a template of parts": Odd(tokens(template=LIST_TEMPLATE)),
    "named templates without a default": Odd(named_templates, r"template", ("generate",), works=True),
    "a folder of templates": Odd(template_folder, copies=("additional_chat_templates/tool_use.jinja",)),
    "no template": Odd(tokens(template=None)),
    "a token beyond the embedding": Odd(tokens(special={"pad_token": "[PAD]"})),
    "a prompt beyond the embedding": Odd(
        tokens(special={"pad_token": "[PAD]"}), r"\b24\b", ("generate",), words={"generate": "--prompt [PAD]"}
    ),
    "only sentencepiece's file": Odd(
        both(without("tokenizer.json"), content("tokenizer.model", "\n\x0e\n\x05<unk>\x15"),
             lambda folder: change(folder / "tokenizer_config.json", tokenizer_class="LlamaTokenizer")),
        r"sentencepiece|tokenizer\.model", WEIGHTS,
    ),
    "a tokenizer of remote code": Odd(
        both(without("tokenizer.json"), content("vocab.tiktoken", "YQ== 0\n"),
             lambda folder: change(folder / "tokenizer_config.json", tokenizer_class="TikTokenTokenizer",
                                   auto_map={"AutoTokenizer": ["tok.TikTokenTokenizer", None]})),
        r"tiktoken|remote code|TikTokenTokenizer", WEIGHTS,
    ),
    # Families.
    "learned positions": Odd(family("gpt2", max_position_embeddings=64), r"64 positions", ("inspect",)),
    "a window beyond the learned positions": Odd(
        family("gpt2", max_position_embeddings=64), r"\b64\b", ("inspect", "compress"),
        words={"inspect": "--length 128", "compress": "--length 128"},
    ),
    "a prompt beyond the learned positions": Odd(
        family("gpt2", max_position_embeddings=64), r"\b64\b", ("generate",), words={"generate": f"--prompt '{LONG}'"}
    ),
    "a short context that nothing limits": Odd(config(max_position_embeddings=16)),
    "no cache of keys and values": Odd(family("mamba", state_size=8, time_step_rank=4)),
    "a family without any cache": Odd(family("openai-gpt", n_positions=1024)),
    "a wrapper with a tower for images": Odd(multimodal),
    # Quantized models and other folders.
    "GPTQ of old": Odd(
        both(content("quantize_config.json", '{"bits": 4, "group_size": 128, "desc_act": false}'),
             packed("qweight", "qzeros", "scales", "g_idx")), r"(?i)gptq"),
    "GPTQ": Odd(both(config(quantization_config={"quant_method": "gptq", "bits": 4}), packed("qweight")), r"(?i)gptq"),
    "AWQ": Odd(both(config(quantization_config={"quant_method": "awq", "bits": 4}), packed("qweight")), r"(?i)awq"),
    "MLX": Odd(both(config(quantization={"group_size": 64, "bits": 4}), packed("weight", "scales", "biases")), r"MLX"),
    "MLX of two keys": Odd(
        both(config(quantization={"group_size": 64, "bits": 4}, quantization_config={"group_size": 64, "bits": 4}),
             packed("weight", "scales", "biases")), r"MLX"),
    "ModelOpt": Odd(
        both(content("hf_quant_config.json", '{"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "x"}}'),
             packed("weight", "weight_scale")), r"(?i)modelopt"),
    "compressed-tensors": Odd(
        quantized(quant_method="compressed-tensors", format="pack-quantized"), r"(?i)compressed-tensors"),
    "bitsandbytes": Odd(quantized(load_in_4bit=True, bnb_4bit_quant_type="nf4"), r"(?i)bitsandbytes"),
    "a GGUF inside the folder": Odd(
        both(without(FILE), content("model.Q4_0.gguf", "GGUF")), r"GGUF.*model\.Q4_0\.gguf"),
    "only pickle": Odd(both(without(FILE), content("pytorch_model.bin", "x")), r"pickle", WEIGHTS),
    "no weights": Odd(without(FILE), r"safetensors", WEIGHTS),
    "an adapter with a config": Odd(adapter, r"(?i)adapter"),
    "an adapter": Odd(both(adapter, without("config.json")), r"(?i)adapter"),
}  # fmt: skip
