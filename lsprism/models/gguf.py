"""Converts a GGUF file to a bfloat16 transformers folder, once, in the cache."""

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from lsprism.errors import SourceError
from lsprism.models.checks import find_missing_weights
from lsprism.models.rope import apply_rope_scaling
from lsprism.models.transformers_private import get_gguf_tokenizer
from lsprism.paths import cache_folder

# What the readers of transformers and gguf raise for a truncated, altered or unsupported file.
UNREADABLE = (
    OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, ImportError,
    MemoryError, struct.error,
)  # fmt: skip


def get_gguf_folder(file: Path) -> Path:
    """Folder of the dequantized model, cached by the file's content. Raises SourceError."""
    digest = _compute_digest(file)

    def make(folder: Path) -> None:
        write_folder(*read_gguf(file), folder, file.stem)

    return build_once(cache_folder() / f"gguf-{digest[:16]}-2", make)  # -2: includes the file's RoPE scaling


def read_gguf(file: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read model (bfloat16) and tokenizer. Raises SourceError for a file that transformers cannot read."""
    how = {"gguf_file": file.name, "trust_remote_code": False}
    try:
        with _disable_progress():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                file.parent,
                dtype=torch.bfloat16,
                quantization_config=GgufConfig(dequantize=True),
                output_loading_info=True,
                **how,
            )
            model, loading = loaded
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **how)
            _split_digits(tokenizer, file)
            apply_rope_scaling(model.config, file)
    except UNREADABLE as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise SourceError(
            f"{file} cannot be read as a causal language model: {reason.rstrip('.')}.",
            "Download it again, or choose another model.",
        ) from error
    if loading["missing_keys"]:
        raise SourceError(f"{file} lacks the weight {min(loading['missing_keys'])}.", "Give a file with all weights.")
    return model, tokenizer


def write_folder(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, name: str) -> None:
    """Save model and tokenizer; config.json names `name` as the origin, not the file's title or a local path."""
    tokenizer.model_max_length = getattr(model.config, "max_position_embeddings", tokenizer.model_max_length)
    for key in ("is_local", "local_files_only"):  # these describe how it was loaded, not the tokenizer
        tokenizer.init_kwargs.pop(key, None)
    with _disable_progress():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("_model_name_or_path", "quantization_config"):
        config.pop(key, None)
    path.write_text(json.dumps({"_name_or_path": name, **config}, indent=2) + "\n", encoding="utf-8")


def is_whole(folder: Path) -> bool:
    needed = ("config.json", "tokenizer.json")
    return all((folder / name).is_file() for name in needed) and not find_missing_weights(folder)


def build_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Fill `folder` with `make`, unless it is complete already, and return it.

    `make` gets an empty folder next to it, which is renamed to `folder` when done, so that `folder` is never partial.
    A second process waits for the first and uses its result. Raises SourceError if the folder cannot be written.
    """
    if is_whole(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not is_whole(folder):
                _replace(folder, make)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SourceError(
            f"The model cannot be cached in {folder.parent}: {reason}.",
            "Free some disk space, or set LSPRISM_HOME to another folder.",
        ) from error
    return folder


def _replace(folder: Path, make: Callable[[Path], None]) -> None:
    staged = folder.with_name(folder.name + ".staged")
    shutil.rmtree(staged, ignore_errors=True)  # left by a killed process; this one holds the lock
    staged.mkdir()
    try:
        make(staged)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(staged, folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _compute_digest(file: Path) -> str:
    """sha256 of the file, in hexadecimal."""
    try:
        with file.open("rb") as stream:
            if stream.read(4) != b"GGUF":
                raise SourceError(f"{file} is not a GGUF file.", "Download it again, or choose another model.")
            stream.seek(0)
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise SourceError(f"{file} cannot be read: {error.strerror}.", "Check its permissions and the disk.") from error


def _split_digits(tokenizer: PreTrainedTokenizerBase, file: Path) -> None:
    """Add the digit splitting of SmolLM, which transformers 5.23 does not apply for the pre-tokenizer 'smollm':
    without it, spaces before a number are tokenized differently than in training."""
    _, described, _ = get_gguf_tokenizer(str(file))
    if described.get("pre_tokenizer_type") == "smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
            [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
        )


@contextmanager
def _disable_progress() -> Iterator[None]:
    """Silence warnings and progress bars of transformers in this context."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with redirect_stderr(StringIO()):  # the progress bar of the GGUF loader ignores all settings
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
