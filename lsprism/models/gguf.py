"""A GGUF file as a plain bfloat16 transformers folder, made once and kept in the cache."""

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
from transformers.integrations.gguf import get_gguf_tokenizer
from transformers.utils import logging as transformers_logging

from lsprism.errors import SourceError
from lsprism.models.checks import missing_weights
from lsprism.models.rope import adopt_rope
from lsprism.paths import cache_folder

# What the readers of transformers and gguf raise on a file that is cut, altered or of an unknown architecture.
UNREADABLE = (
    OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, ImportError,
    MemoryError, struct.error,
)  # fmt: skip


def gguf_folder(file: Path) -> Path:
    """The dequantised model of `file`, keyed by the file's content."""
    digest = _digest(file)

    def make(folder: Path) -> None:
        write_folder(*read_gguf(file), folder, file.stem)

    return made_once(cache_folder() / f"gguf-{digest[:16]}-2", make)  # -2: with the file's scaling of frequencies


def read_gguf(file: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model in bfloat16 and tokenizer; a file that transformers cannot read is a SourceError."""
    how = {"gguf_file": file.name, "trust_remote_code": False}
    try:
        with _quiet():
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
            adopt_rope(model.config, file)
    except UNREADABLE as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise SourceError(
            f"{file} cannot be read as a causal language model: {reason.rstrip('.')}.",
            "Download it again, or choose another model.",
        ) from error
    if loading["missing_keys"]:
        raise SourceError(f"{file} lacks the weights {min(loading['missing_keys'])}.", "Give a file with all weights.")
    return model, tokenizer


def write_folder(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, name: str) -> None:
    """`name` is what config.json cites as its origin, in place of the file's title and the machine's paths."""
    tokenizer.model_max_length = getattr(model.config, "max_position_embeddings", tokenizer.model_max_length)
    for key in ("is_local", "local_files_only"):  # how it was loaded here says nothing about the tokenizer
        tokenizer.init_kwargs.pop(key, None)
    with _quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("_model_name_or_path", "quantization_config"):
        config.pop(key, None)
    path.write_text(json.dumps({"_name_or_path": name, **config}, indent=2) + "\n", encoding="utf-8")


def is_whole(folder: Path) -> bool:
    needed = ("config.json", "tokenizer.json")
    return all((folder / name).is_file() for name in needed) and not missing_weights(folder)


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, filled by `make` unless it is whole already.

    `make` gets an empty folder beside it, which becomes `folder` by one rename: whole or absent. A second process
    waits for the first and finds the work done.
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
            f"The model cannot be kept in {folder.parent}: {reason}.",
            "Free some disk space, or set LSPRISM_HOME to another folder.",
        ) from error
    return folder


def _replace(folder: Path, make: Callable[[Path], None]) -> None:
    staged = folder.with_name(folder.name + ".staged")
    shutil.rmtree(staged, ignore_errors=True)  # left by a killed process: whoever holds the lock is alone
    staged.mkdir()
    try:
        make(staged)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(staged, folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _digest(file: Path) -> str:
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
    """SmolLM was trained on single digits, which transformers 5.23 does not know of the file's label 'smollm':
    without this, spaces before a number are cut otherwise than the model has learned."""
    _, described, _ = get_gguf_tokenizer(str(file))
    if described.get("pre_tokenizer_type") == "smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
            [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Neither warnings nor progress bars of transformers inside; as they were afterwards."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with redirect_stderr(StringIO()):  # the bar of the GGUF loader obeys no setting
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
