"""Files that are copied along with the weights: tokenizer, chat template, license files."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import metadata_load

CARD = "README.md"
# Files of a transformers folder other than config and weights, and those that a license requires to be included.
COMPANIONS = (
    "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*",
    "generation_config.json", "*.model", "*.tiktoken", "LICENSE*", "NOTICE*", "USE_POLICY*",
    "additional_chat_templates/*.jinja",
)  # fmt: skip
# Configs of image, audio and video processors, for models that keep those parts.
PROCESSORS = ("*preprocessor_config.json", "processor_config.json", "audio_tokenizer_config.json")

# The Llama Community Licenses 3.1 to 3.3 (1.b.i and 1.b.iii) require of a distributed derivative: the words BUILT_WITH,
# the notice, a copy of the license, and a name that starts with "Llama".
BUILT_WITH = "Built with Llama"
_LLAMA = re.compile(r"llama[-_ ]?(3\.[123])", re.IGNORECASE)
_NOTICE = (
    "Llama {0} is licensed under the Llama {0} Community License, Copyright (c) Meta Platforms, Inc. "
    "All Rights Reserved."
)


@dataclass(frozen=True)
class License:
    """License of a base model. `fields`: license, license_name and license_link, if its model card has them."""

    fields: dict[str, str]
    llama: str = ""  # license version, if it is a Llama Community License

    @property
    def notice(self) -> str:
        return _NOTICE.format(self.llama) if self.llama else ""

    def suggest_name(self, base_model: str) -> str:
        """Name of a model derived from `base_model`."""
        name = base_model.rpartition("/")[2]
        if not self.llama:
            return name
        name = name.removeprefix("Meta-")
        return name if name.startswith("Llama") else f"Llama {name}"


def read_card(folder: Path) -> dict[str, Any]:
    """The YAML front matter of a model's README.md; empty if there is none or it cannot be parsed."""
    try:
        return metadata_load(folder / CARD) or {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}


def read_license(folder: Path, base_model: str = "") -> License:
    """The license, from the model card in `folder` and from the names of its base models."""
    card = read_card(folder)
    fields = {key: str(card[key]) for key in ("license", "license_name", "license_link") if card.get(key)}
    bases = card.get("base_model") or []
    names = [*fields.values(), base_model, *map(str, bases if isinstance(bases, list) else [bases])]
    found = next((match for name in names if (match := _LLAMA.search(name))), None)
    if found is None:
        return License(fields)
    return License(fields or {"license": f"llama{found[1]}"}, found[1])


def copy_companions(source: Path, folder: Path, license_info: License, processors: bool = True) -> None:
    """Copy the companion files from one model folder to another; add the notice that a Llama license requires.

    `processors`: copy the configs of image, audio and video processors too.
    """
    for pattern in COMPANIONS + (PROCESSORS if processors else ()):
        for path in source.glob(pattern):
            if path.is_file():
                copy = folder / path.relative_to(source)
                copy.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, copy)
    if license_info.notice:
        path = folder / "NOTICE"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if license_info.notice not in text:
            path.write_text(f"{text}\n{license_info.notice}\n".lstrip(), encoding="utf-8")
