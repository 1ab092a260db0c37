"""Checks of the tokenizer's files and of the packages that they need."""

import importlib.util
from pathlib import Path
from typing import Any

from lsprism.errors import SourceError
from lsprism.json_files import FETCH, Shape, read_object
from lsprism.models.tensor_files import is_pointer

TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
VOCABULARIES = ("tokenizer.json", "vocab*", "*.model", "*.tiktoken", "tekken.json")
COPY = "Copy the tokenizer files of the original model into the folder."
# Suffix of a vocabulary file -> the package that reads it; a tokenizer.json needs none.
PACKAGES = {".tiktoken": "tiktoken", ".model": "sentencepiece"}


class TokenizerShape(Shape):
    auto_map: dict[str, Any] | None = None
    tokenizer_class: str | None = None
    model_max_length: int | float | None = None


def has_tokenizer(folder: Path) -> bool:
    return any((folder / file).is_file() for file in TOKENIZERS)


def has_vocabulary(folder: Path) -> bool:
    """Whether the vocabulary of a tokenizer is there, not only its settings."""
    return any(path.is_file() for pattern in VOCABULARIES for path in folder.glob(pattern))


def check_tokenizer(folder: Path, name: str) -> None:
    """Raise SourceError if the tokenizer is missing, or needs remote code or a package that is not installed."""
    if not has_tokenizer(folder):
        raise SourceError(f"{name} has no tokenizer (none of {', '.join(TOKENIZERS)}).", COPY)
    for path in sorted(path for pattern in VOCABULARIES for path in folder.glob(pattern)):
        if is_pointer(path):
            raise SourceError(f"{path} is only a Git LFS pointer.", FETCH)
    config = folder / "tokenizer_config.json"
    said = read_object(config, TokenizerShape) if config.is_file() else {}
    if (folder / "tokenizer.json").is_file():
        return
    code = (said.get("auto_map") or {}).get("AutoTokenizer")
    if code:
        wanted = next((str(part) for part in (code if isinstance(code, list) else [code]) if part), "its own class")
        raise SourceError(
            f"The tokenizer of {name} needs code from its own repository ({wanted}), and remote code is never run.",
            "Use a copy of the model that has a tokenizer.json.",
        )
    for suffix, package in PACKAGES.items():
        file = next(iter(sorted(folder.glob(f"*{suffix}"))), None)
        if file and not importlib.util.find_spec(package):
            raise SourceError(
                f"The tokenizer of {name} is stored only as {file.name}, which needs the package {package}.",
                f"Run 'pip install {package}', or add a tokenizer.json to the folder.",
            )
