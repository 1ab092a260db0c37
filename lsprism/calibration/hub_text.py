"""Text from datasets of the Hugging Face Hub."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lsprism.errors import CorpusError

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", re.ASCII)
MOST_CHARACTERS = 20_000_000  # limit for streamed datasets: enough for any calibration, without a whole web crawl
TIMEOUT_S = 10  # for a first response of the Hub
REMEDY = "Use --calibration embedded (--dataset embedded), or a .txt, .jsonl or .parquet file."


def load_wikitext2(split: str) -> str:
    """WikiText-2 raw in its usual form for perplexity: all rows joined by blank lines."""
    import datasets  # takes a second to load, and most sources do not need it

    with translate_hub_errors(f"WikiText-2 raw ({split})"):
        rows = datasets.load_dataset("Salesforce/wikitext", "wikitext-2-raw-v1", split=split)
    return "\n\n".join(rows["text"])


def load_hub_dataset(name: str, column: str, split: str) -> str:
    """Stream the first rows of OWNER/NAME or OWNER/NAME:CONFIG, up to MOST_CHARACTERS, joined by blank lines."""
    import datasets

    path, _, config = name.partition(":")
    texts: list[str] = []
    characters = 0
    with translate_hub_errors(name):
        for row in datasets.load_dataset(path, config or None, split=split, streaming=True):
            text = _extract_text(row, column, name)
            texts += [text] if text else []
            characters += len(text)
            if characters >= MOST_CHARACTERS:
                break
    return "\n\n".join(texts)


def _extract_text(row: dict[str, Any], column: str, name: str) -> str:
    if column not in row:
        raise CorpusError(f"{name} has no column {column!r}.", f"Set --column to one of: {', '.join(row)}.")
    text = row[column]
    if text is None:  # missing values are skipped, as in local files
        return ""
    if not isinstance(text, str):
        message = f"{name}: column {column!r} contains {type(text).__name__}, not text."
        raise CorpusError(message, "Choose another column with --column.")
    return text


@contextmanager
def translate_hub_errors(name: str, remedy: str = REMEDY) -> Iterator[None]:
    """Turn errors of the Hub libraries into a CorpusError of one sentence, with `remedy` as the next step."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub.utils import httpx

    with _prevent_stall() as network:
        try:
            yield
        # OSError: no network, offline, HTTP status, not found. ValueError: not cached with this configuration or split.
        # RuntimeError: a dataset with its own loading script, which datasets does not run any more.
        except (OSError, ValueError, RuntimeError, DatasetsError, httpx.HTTPError) as error:
            reason = extract_first_line(error) if network else "no network, and it is not in the cache"
            raise CorpusError(f"{name} could not be downloaded from the Hugging Face Hub: {reason}.", remedy) from error


@contextmanager
def _prevent_stall() -> Iterator[bool]:
    """Yield whether there is a network. Without one, datasets are read from the cache only.

    Otherwise the library would retry for half a minute. Offline mode counts as a network, since it does not retry.
    """
    from datasets import config

    before = config.HF_HUB_OFFLINE
    network = before or _is_hub_reachable(config.HF_ENDPOINT)
    config.HF_HUB_OFFLINE = before or not network
    try:
        yield network
    finally:
        config.HF_HUB_OFFLINE = before


def _is_hub_reachable(endpoint: str) -> bool:
    from huggingface_hub.utils import get_session, httpx

    try:
        get_session().head(endpoint, timeout=TIMEOUT_S)  # any response counts
    except (OSError, httpx.HTTPError):
        return False
    return True


def extract_first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
