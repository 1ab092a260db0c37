"""Checks of a model folder before work starts; each error is one sentence and a next step."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from lsprism.errors import SourceError
from lsprism.json_files import FETCH, Shape, read_object
from lsprism.models.other_formats import check_not_adapter, check_weight_format
from lsprism.models.tensor_files import INDEX, SINGLE, is_pointer, list_weight_files
from lsprism.models.transformers_private import CONFIG_MAPPING_NAMES

CAUSAL = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
DOCUMENTS = ("generation_config.json", "special_tokens_map.json", "added_tokens.json")  # transformers reads them
DECODERS = "Choose a decoder-only model, such as Llama, Mistral, Qwen or SmolLM2."


class ConfigShape(Shape):
    """The entries of config.json that are checked here; transformers checks the others."""

    model_type: str | None = None
    architectures: list[str] | None = None
    auto_map: dict[str, Any] | None = None
    is_decoder: bool | None = None
    is_encoder_decoder: bool | None = None
    transformers_weights: str | None = None
    text_config: dict[str, Any] | None = None
    quantization: dict[str, Any] | None = None
    quantization_config: dict[str, Any] | None = None
    compression_config: dict[str, Any] | None = None
    dtype: str | None = None
    torch_dtype: str | None = None


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json. Raises SourceError if it is missing, malformed, or names an unknown dtype."""
    path = folder / "config.json"
    check_not_adapter(folder)
    if not path.is_file():
        raise SourceError(f"{folder} has no config.json.", "Give a folder written by save_pretrained().")
    config = read_object(path, ConfigShape, hint="Correct it, or download the model again.")
    for name in ("dtype", "torch_dtype"):
        check_dtype(path, config, name)
        check_dtype(path, config.get("text_config") or {}, name)
    return config


def check_documents(folder: Path) -> None:
    """Raise SourceError for a malformed JSON file that transformers would read."""
    for name in DOCUMENTS:
        if (folder / name).is_file():
            read_object(folder / name)


def check_dtype(path: Path, config: dict[str, Any], name: str) -> None:
    """Raise SourceError for a value that is not a torch dtype, as transformers does."""
    dtype = config.get(name)
    if dtype is None or isinstance(dtype, str) and isinstance(getattr(torch, dtype, None), torch.dtype):
        return
    plain = str(dtype).removeprefix("torch.")
    known = isinstance(getattr(torch, plain, None), torch.dtype)
    raise SourceError(
        f"{path}: {name} is {dtype!r}, which is not a dtype.",
        f"Write {plain!r}." if known else "Write 'bfloat16', 'float16' or 'float32', or remove the entry.",
    )


def check_config(config: dict[str, Any], name: str) -> None:
    """Raise SourceError unless transformers itself supports this model as a decoder; nothing is instantiated."""
    kind, architectures = config.get("model_type"), config.get("architectures") or []
    if kind not in CONFIG_MAPPING_NAMES and "auto_map" in config:
        raise SourceError(
            f"{name} (model_type {kind!r}) needs code from its own repository, and remote code is never run.",
            "Choose a model that transformers supports without remote code.",
        )
    if kind not in CONFIG_MAPPING_NAMES:
        raise SourceError(
            f"{name} has model_type {kind!r}, which transformers {transformers.__version__} does not know.",
            "Correct config.json, or update transformers if the model is newer.",
        )
    if config.get("is_encoder_decoder"):
        raise SourceError(f"{name} ({kind}) is an encoder-decoder, not a causal language model.", DECODERS)
    # A model type may have a causal class and still be an encoder (BERT). So the architecture it was saved as counts
    # too, and for such types whether is_decoder is set.
    headed = not architectures or any(str(a).endswith(CAUSAL) for a in architectures)
    both_ways = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.get("is_decoder")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or not headed or both_ways:
        made_as = ", ".join(map(str, architectures)) or kind
        raise SourceError(f"{name} ({made_as}) is not a causal language model.", DECODERS)
    if config.get("transformers_weights"):
        raise SourceError(
            f"{name} sets transformers_weights in config.json ({config['transformers_weights']}).",
            f"Rename the file to {SINGLE} and remove the entry.",
        )


@contextmanager
def translate_config_errors(folder: Path, *others: type[Exception]) -> Iterator[None]:
    """Turn what transformers raises while reading a config or building a model into a SourceError."""
    kinds: tuple[type[Exception], ...] = (
        StrictDataclassError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, ImportError,
        AssertionError, *others,
    )  # fmt: skip
    try:
        yield
    except kinds as error:
        text = " ".join(str(error).split()).rstrip(".")
        reason = text if " " in text else f"{type(error).__name__} {text}".rstrip()
        flash = "Remove attn_implementation from config.json; transformers then chooses an installed one."
        raise SourceError(
            f"{folder / 'config.json'} does not describe a model that can be built: {reason}.",
            flash if "attn_implementation" in text or "Flash" in text else "Correct it, or download the model again.",
        ) from error


def load_config(folder: Path) -> PreTrainedConfig:
    """Load the model's config with transformers. Raises SourceError."""
    with translate_config_errors(folder):
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def find_missing_weights(folder: Path) -> list[str]:
    """Names of the safetensors files that are missing in `folder`; empty if the weights are complete."""
    if not ((folder / SINGLE).is_file() or (folder / INDEX).is_file()):
        return [SINGLE]
    files = list_weight_files(folder, SourceError)
    return [name for name in files if not (folder / name).is_file()] if files else [SINGLE]


def check_weights(folder: Path, name: str, listed: Iterable[str]) -> None:
    """Raise SourceError if weights are missing. `listed`: all files of the model's folder or Hub repository."""
    missing = find_missing_weights(folder)
    if missing:
        check_weight_format(name, listed, missing[0])
    check_pointers(folder)


def check_pointers(folder: Path) -> None:
    """Raise SourceError if a weight file is only a Git LFS pointer."""
    for path in sorted(folder.glob("*.safetensors")):
        if is_pointer(path):
            raise SourceError(f"{path} is only a Git LFS pointer.", FETCH)
