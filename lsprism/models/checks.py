"""What a model folder must hold before work begins; each refusal is one sentence and a next step."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from lsprism.errors import SourceError

QUANT_METHOD = "ls_prism"  # what an artifact's config.json says
CAUSAL = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
DECODERS = "Choose a decoder-only model, such as Llama, Mistral, Qwen or SmolLM2."


def read_config(folder: Path) -> dict[str, Any]:
    """The content of config.json."""
    path = folder / "config.json"
    if path.is_file():
        return _read_object(path)
    if (folder / "adapter_config.json").is_file():
        raise SourceError(
            f"{folder} holds an adapter, not a whole model.", "Merge it into its base model and give the merged folder."
        )
    raise SourceError(f"{folder} holds no config.json.", "Give the folder that save_pretrained() wrote.")


def check_config(config: dict[str, Any], name: str) -> None:
    """Refuse what is not a decoder that transformers itself can build; nothing is instantiated."""
    kind, architectures = config.get("model_type"), config.get("architectures") or []
    if kind not in CONFIG_MAPPING_NAMES and "auto_map" in config:
        raise SourceError(
            f"{name} (model_type {kind!r}) needs code from its own repository, and remote code is never run.",
            "Choose a model that transformers supports by itself.",
        )
    if kind not in CONFIG_MAPPING_NAMES:
        raise SourceError(
            f"{name} has model_type {kind!r}, which transformers {transformers.__version__} does not know.",
            "Correct config.json, or update transformers if the model is newer.",
        )
    if config.get("is_encoder_decoder"):
        raise SourceError(f"{name} ({kind}) is an encoder-decoder, not a causal language model.", DECODERS)
    # A type may have a causal class and yet be an encoder (BERT), so what the checkpoint was saved as counts too, and
    # whether such a type was told to look only back.
    headed = not architectures or any(str(a).endswith(CAUSAL) for a in architectures)
    both_ways = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.get("is_decoder")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or not headed or both_ways:
        made_as = ", ".join(map(str, architectures)) or kind
        raise SourceError(f"{name} ({made_as}) is not a causal language model.", DECODERS)
    method = quant_method(config)
    if method not in ("", QUANT_METHOD):
        raise SourceError(
            f"{name} is quantised by {method} already.", "Choose the model that it was made from, unquantised."
        )


@contextmanager
def config_errors(folder: Path) -> Iterator[None]:
    """What transformers raises while it reads a config or builds a model by it becomes a SourceError."""
    try:
        yield
    except (
        StrictDataclassError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, ImportError,
    ) as error:  # fmt: skip
        text = " ".join(str(error).split()).rstrip(".")
        reason = text if " " in text else f"{type(error).__name__} {text}".rstrip()
        raise SourceError(
            f"{folder / 'config.json'} describes no model that can be built: {reason}.",
            "Correct it, or download the model again.",
        ) from error


def quant_method(config: dict[str, Any]) -> str:
    """Who quantised the model, by its config.json or that of its text part; empty where nobody did."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        found = part.get("quantization_config") or part.get("compression_config")
        if isinstance(found, dict):  # old bitsandbytes configs bear no name
            return str(found.get("quant_method") or "bitsandbytes")
    return ""


def missing_weights(folder: Path) -> list[str]:
    """Names of the safetensors files that `folder` lacks; empty when its weights are whole."""
    if (folder / "model.safetensors").is_file():
        return []
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = set(_read_object(index).get("weight_map", {}).values())
        return sorted(name for name in shards if not (folder / name).is_file()) if shards else ["model.safetensors"]
    return [] if any(folder.glob("*.safetensors")) else ["model.safetensors"]


def check_weights(folder: Path, name: str, listed: Iterable[str]) -> None:
    """`listed` names the files of the model's home, which for the hub are more than were fetched."""
    missing, listed = missing_weights(folder), sorted(listed)
    if not missing:
        return
    pickles = [file for file in listed if file.endswith(PICKLES)]
    packed = [file for file in listed if file.endswith(".gguf")]
    if any(file.endswith(".safetensors") for file in listed):
        raise SourceError(f"{name} lacks the weights {missing[0]}.", "Copy or download the model again.")
    if packed:
        raise SourceError(
            f"{name} holds its weights only as GGUF ({packed[0]}).", "Download one .gguf file and give its path."
        )
    if pickles:
        raise SourceError(
            f"{name} holds its weights only as pickle ({pickles[0]}), which can run code when it is read.",
            "Convert it to safetensors first: https://huggingface.co/spaces/safetensors/convert",
        )
    raise SourceError(f"{name} holds no *.safetensors.", "Give a folder or hub id that holds the weights.")


def check_tokenizer(folder: Path, name: str) -> None:
    if not any((folder / file).is_file() for file in TOKENIZERS):
        raise SourceError(
            f"{name} holds no tokenizer (none of {', '.join(TOKENIZERS)}).",
            "Copy the tokenizer's files from the model it comes from into the folder.",
        )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}.", "Check its permissions.") from error
    except ValueError as error:
        raise SourceError(f"{path} is not valid JSON: {error}.", "Download or save the model again.") from error
    if not isinstance(content, dict):
        raise SourceError(f"{path} is not a JSON object.", "Download or save the model again.")
    return content
