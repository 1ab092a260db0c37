"""From a resolved source to a model in memory; the one place that picks device and dtype.

Artifacts load through the same door: whoever calls must have imported `lsprism.hf`, which registers their format.
"""

import re
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lsprism.errors import DamagedError, SourceError, SpecError
from lsprism.json_files import read_object
from lsprism.models.anatomy import skeleton
from lsprism.models.checks import config_errors
from lsprism.models.origins import refuse_extras
from lsprism.models.stored import INDEX, SINGLE, IndexShape, stored_dtype, tensor_files
from lsprism.models.surgery import use_plain_outputs
from lsprism.models.ties import tied_names
from lsprism.models.tokenizer_files import check_tokenizer
from lsprism.models.weights import WeightFiles
from lsprism.reports import ModelSource

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class LoadedModel:
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: ModelSource
    device: torch.device
    dtype: torch.dtype


def pick_device(name: str) -> torch.device:
    """auto: the first CUDA device if there is one, else the CPU. One that is unknown or not there is a SpecError."""
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


def pick_dtype(name: str, source: ModelSource) -> torch.dtype:
    """auto: the dtype that config.json names, or else that of the stored tensors, or else float32."""
    if name in DTYPES:
        return DTYPES[name]
    if name != "auto":
        raise SpecError(f"--dtype {name!r} is unknown.", f"Choose auto, {', '.join(DTYPES)}.")
    with config_errors(source.folder):
        config = AutoConfig.from_pretrained(source.folder, trust_remote_code=False)
    dtype = config.dtype or config.get_text_config().dtype or stored_dtype(source.folder) or torch.float32
    if dtype not in DTYPES.values():
        raise SpecError(
            f"{source.model_id} is held in {str(dtype).removeprefix('torch.')}.", f"Give --dtype {', '.join(DTYPES)}."
        )
    return dtype


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """SourceError if its files cannot be read."""
    check_tokenizer(source.folder, source.model_id)
    try:
        return AutoTokenizer.from_pretrained(source.folder, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises nothing narrower
        text = " ".join(str(error).split())
        reason = text.partition(". ")[0].rstrip(".")[:200] if " " in text else f"{type(error).__name__} {text}".rstrip()
        raise SourceError(
            f"The tokenizer in {source.folder} cannot be read: {reason}.",
            "Copy its files again from the model it comes from.",
        ) from error


def load(source: ModelSource, device: str = "auto", dtype: str = "auto") -> LoadedModel:
    """Load a model whole. Tensors that are missing, misshapen or of no use are a DamagedError, never a warning."""
    place, kind = pick_device(device), pick_dtype(dtype, source)
    file_of = tensor_files(source.folder)  # names a file that is missing or cut short; transformers would not
    _check_metadata(source)
    if source.kind != "artifact":  # as a compression reads it; what transformers only warns of is refused
        WeightFiles(source.folder, skeleton(source.folder, kind))
    with config_errors(source.folder):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.folder,
            dtype=kind,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # refused below
            output_loading_info=True,
        )
        model, info = loaded
    for what in ("missing_keys", "mismatched_keys"):
        names = {key[0] if isinstance(key, tuple) else key for key in info[what]} - set(tied_names(model))
        if names:
            raise DamagedError(
                f"{source.folder}: {len(names)} {what.replace('_', ' ')}, the first is {min(names)}.",
                "The weights do not fit config.json; download or compress the model again.",
            )
    refuse_extras(source.folder, model, {key: key for key in info["unexpected_keys"]}, file_of)
    use_plain_outputs(model)
    return LoadedModel(model.to(place).eval().requires_grad_(False), load_tokenizer(source), source, place, kind)


def _check_metadata(source: ModelSource) -> None:
    """transformers reads no index without it."""
    path = source.folder / INDEX
    if (source.folder / SINGLE).is_file() or isinstance(read_object(path, IndexShape).get("metadata"), dict):
        return
    raise DamagedError(f"{path} has no metadata, which transformers needs.", 'Add the entry "metadata": {} to it.')
