"""Loads a resolved source into memory; the only module that resolves device and dtype.

Artifacts are loaded the same way: the caller must have imported `lsprism.hf`, which registers their format.
"""

import re
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lsprism.errors import DamagedError, SourceError, SpecError
from lsprism.json_files import read_object
from lsprism.models.checks import translate_config_errors
from lsprism.models.module_utils import use_plain_outputs
from lsprism.models.origins import check_unexpected_tensors
from lsprism.models.structure import build_meta_model
from lsprism.models.tensor_files import INDEX, SINGLE, IndexShape, find_stored_dtype, map_tensor_files
from lsprism.models.ties import get_tied_names
from lsprism.models.tokenizer_files import check_tokenizer
from lsprism.models.weights import WeightFiles
from lsprism.records.model_plan import ModelSource

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class LoadedModel:
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: ModelSource
    device: torch.device
    dtype: torch.dtype


def select_device(name: str) -> torch.device:
    """Resolve a device name; auto: the first CUDA device, or the CPU. Raises SpecError if it is not available."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise SpecError(f"--device {name!r} is unknown.", "Choose auto, cpu, cuda or cuda:N.")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SpecError(
            f"--device {name}: this PyTorch sees {torch.cuda.device_count()} CUDA devices.",
            "Choose --device auto or cpu, or install a CUDA build of PyTorch.",
        )
    return device


def select_dtype(name: str, source: ModelSource) -> torch.dtype:
    """Resolve a dtype name; auto: the dtype in config.json, else of the stored tensors, else float32.

    Raises SpecError for a dtype that is not supported.
    """
    if name in DTYPES:
        return DTYPES[name]
    if name != "auto":
        raise SpecError(f"--dtype {name!r} is unknown.", f"Choose auto, {', '.join(DTYPES)}.")
    with translate_config_errors(source.folder):
        config = AutoConfig.from_pretrained(source.folder, trust_remote_code=False)
    dtype = config.dtype or config.get_text_config().dtype or find_stored_dtype(source.folder) or torch.float32
    if dtype not in DTYPES.values():
        raise SpecError(
            f"{source.model_id} is stored in {str(dtype).removeprefix('torch.')}, which is not supported.",
            f"Set --dtype to one of {', '.join(DTYPES)}.",
        )
    return dtype


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a source. Raises SourceError if its files are missing or cannot be read."""
    check_tokenizer(source.folder, source.model_id)
    try:
        return AutoTokenizer.from_pretrained(source.folder, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises nothing narrower
        text = " ".join(str(error).split())
        reason = text.partition(". ")[0].rstrip(".")[:200] if " " in text else f"{type(error).__name__} {text}".rstrip()
        raise SourceError(
            f"The tokenizer in {source.folder} cannot be read: {reason}.",
            "Copy its files again from the original model.",
        ) from error


def load(source: ModelSource, device: str = "auto", dtype: str = "auto") -> LoadedModel:
    """Load a complete model. Raises DamagedError, never a warning, for missing, misshapen or unexpected tensors.

    Raises SpecError for a device or dtype that is not available, SourceError for files that cannot be read.
    """
    place, kind = select_device(device), select_dtype(dtype, source)
    file_of = map_tensor_files(source.folder)  # unlike transformers, names a missing or truncated file
    _check_metadata(source)
    if source.kind != "artifact":  # the same checks as for compression: errors where transformers only warns
        WeightFiles(source.folder, build_meta_model(source.folder, kind))
    with translate_config_errors(source.folder):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.folder,
            dtype=kind,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # checked below
            output_loading_info=True,
        )
        model, info = loaded
    for what in ("missing_keys", "mismatched_keys"):
        names = {key[0] if isinstance(key, tuple) else key for key in info[what]} - set(get_tied_names(model))
        if names:
            raise DamagedError(
                f"{source.folder}: {len(names)} {what.replace('_', ' ')}, the first is {min(names)}.",
                "The weights do not match config.json; download or compress the model again.",
            )
    check_unexpected_tensors(source.folder, model, {key: key for key in info["unexpected_keys"]}, file_of)
    use_plain_outputs(model)
    return LoadedModel(model.to(place).eval().requires_grad_(False), load_tokenizer(source), source, place, kind)


def _check_metadata(source: ModelSource) -> None:
    """Raise DamagedError for an index without metadata, which transformers cannot read."""
    path = source.folder / INDEX
    if (source.folder / SINGLE).is_file() or isinstance(read_object(path, IndexShape).get("metadata"), dict):
        return
    raise DamagedError(f"{path} has no metadata, which transformers needs.", 'Add the entry "metadata": {} to it.')
