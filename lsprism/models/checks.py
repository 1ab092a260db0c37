"""What a model folder must hold before work begins; each refusal is one sentence and a next step."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from lsprism.errors import SourceError
from lsprism.json_files import FETCH, Shape, read_object
from lsprism.models.foreign import refuse_adapter, refuse_other_weights
from lsprism.models.stored import INDEX, SINGLE, is_pointer, weight_files

CAUSAL = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
DOCUMENTS = ("generation_config.json", "special_tokens_map.json", "added_tokens.json")  # objects, read by transformers
DECODERS = "Choose a decoder-only model, such as Llama, Mistral, Qwen or SmolLM2."


class ConfigShape(Shape):
    """The entries of config.json that are looked at here; transformers checks its own."""

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
    """The content of config.json."""
    path = folder / "config.json"
    refuse_adapter(folder)
    if not path.is_file():
        raise SourceError(f"{folder} holds no config.json.", "Give the folder that save_pretrained() wrote.")
    config = read_object(path, ConfigShape, hint="Correct it, or download the model again.")
    for name in ("dtype", "torch_dtype"):
        check_dtype(path, config, name)
        check_dtype(path, config.get("text_config") or {}, name)
    return config


def check_documents(folder: Path) -> None:
    """SourceError for a file that transformers would stumble over."""
    for name in DOCUMENTS:
        if (folder / name).is_file():
            read_object(folder / name)


def check_dtype(path: Path, config: dict[str, Any], name: str) -> None:
    """Refuse what names no dtype of torch, as transformers does."""
    dtype = config.get(name)
    if dtype is None or isinstance(dtype, str) and isinstance(getattr(torch, dtype, None), torch.dtype):
        return
    plain = str(dtype).removeprefix("torch.")
    known = isinstance(getattr(torch, plain, None), torch.dtype)
    raise SourceError(
        f"{path}: {name} is {dtype!r}, which is no dtype.",
        f"Write {plain!r}." if known else "Write 'bfloat16', 'float16' or 'float32', or remove the entry.",
    )


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
    if config.get("transformers_weights"):
        raise SourceError(
            f"{name} names its weights by transformers_weights in config.json ({config['transformers_weights']}).",
            f"Rename the file to {SINGLE} and remove the entry.",
        )


@contextmanager
def config_errors(folder: Path, *others: type[Exception]) -> Iterator[None]:
    """What transformers raises while it reads a config or builds a model by it becomes a SourceError."""
    kinds: tuple[type[Exception], ...] = (
        StrictDataclassError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, ImportError,
        AssertionError, *others,
    )  # fmt: skip
    try:
        yield
    except kinds as error:
        text = " ".join(str(error).split()).rstrip(".")
        reason = text if " " in text else f"{type(error).__name__} {text}".rstrip()
        flash = "Remove attn_implementation from config.json: transformers then chooses what is there."
        raise SourceError(
            f"{folder / 'config.json'} describes no model that can be built: {reason}.",
            flash if "attn_implementation" in text or "Flash" in text else "Correct it, or download the model again.",
        ) from error


def load_config(folder: Path) -> PreTrainedConfig:
    """The model's config as transformers reads it."""
    with config_errors(folder):
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def missing_weights(folder: Path) -> list[str]:
    """Names of the safetensors files that `folder` lacks; empty when its weights are whole."""
    if not ((folder / SINGLE).is_file() or (folder / INDEX).is_file()):
        return [SINGLE]
    files = weight_files(folder, SourceError)
    return [name for name in files if not (folder / name).is_file()] if files else [SINGLE]


def check_weights(folder: Path, name: str, listed: Iterable[str]) -> None:
    """`listed` names the files of the model's home, which for the hub are more than were fetched."""
    missing = missing_weights(folder)
    if missing:
        refuse_other_weights(name, listed, missing[0])
    refuse_pointers(folder)


def refuse_pointers(folder: Path) -> None:
    """SourceError if Git LFS has left its few lines in the place of the weights."""
    for path in sorted(folder.glob("*.safetensors")):
        if is_pointer(path):
            raise SourceError(f"{path} is only a Git LFS pointer.", FETCH)
