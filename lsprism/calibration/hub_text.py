"""Text from datasets of the Hugging Face hub. Knows no model and no file."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lsprism.errors import CorpusError

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", re.ASCII)
MOST_CHARACTERS = 20_000_000  # of a dataset read row by row: enough for any calibration, never all of a web crawl
TIMEOUT_S = 10  # for the hub to answer at all
REMEDY = "Use --calibration embedded (--dataset embedded), or a .txt, .jsonl or .parquet file."


def wikitext2(split: str) -> str:
    """WikiText-2 raw as everybody measures on it: all rows joined by blank lines."""
    import datasets  # here: the hub's libraries take a second to load, and most sources do without them

    with hub_errors(f"WikiText-2 raw ({split})"):
        rows = datasets.load_dataset("Salesforce/wikitext", "wikitext-2-raw-v1", split=split)
    return "\n\n".join(rows["text"])


def hub_dataset(name: str, column: str, split: str) -> str:
    """The first rows of OWNER/NAME or OWNER/NAME:CONFIG, streamed, joined by blank lines, MOST_CHARACTERS at most."""
    import datasets

    path, _, config = name.partition(":")
    texts, characters = [], 0
    with hub_errors(name):
        for row in datasets.load_dataset(path, config or None, split=split, streaming=True):
            text = _text(row, column, name)
            texts += [text] if text else []
            characters += len(text)
            if characters >= MOST_CHARACTERS:
                break
    return "\n\n".join(texts)


def _text(row: dict[str, Any], column: str, name: str) -> str:
    if column not in row:
        raise CorpusError(f"{name} has no column {column!r}.", f"Choose with --column one of: {', '.join(row)}.")
    text = row[column]
    if text is None:  # a missing value is left out, as in a file
        return ""
    if not isinstance(text, str):
        message = f"{name}: column {column!r} holds {type(text).__name__}, not text."
        raise CorpusError(message, "Choose another column with --column.")
    return text


@contextmanager
def hub_errors(name: str, remedy: str = REMEDY) -> Iterator[None]:
    """What the hub's libraries raise inside becomes a CorpusError of one sentence, with `remedy` as the next step."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub.utils import httpx

    with _no_stall() as network:
        try:
            yield
        # OSError: no network, offline, HTTP status, not found. ValueError: a cache without this configuration or split.
        # RuntimeError: a dataset that is a script of its own, which datasets no longer runs.
        except (OSError, ValueError, RuntimeError, DatasetsError, httpx.HTTPError) as error:
            reason = first_line(error) if network else "there is no network, and it is not in the cache"
            raise CorpusError(f"{name} could not be had from the Hugging Face hub: {reason}.", remedy) from error


@contextmanager
def _no_stall() -> Iterator[bool]:
    """Yield whether there is a network. Without one, datasets are only looked for in the cache: the library would try
    the hub for half a minute first. Offline mode counts as a network, for it does not stall."""
    from datasets import config

    before = config.HF_HUB_OFFLINE
    network = before or _hub_answers(config.HF_ENDPOINT)
    config.HF_HUB_OFFLINE = before or not network
    try:
        yield network
    finally:
        config.HF_HUB_OFFLINE = before


def _hub_answers(endpoint: str) -> bool:
    from huggingface_hub.utils import get_session, httpx

    try:
        get_session().head(endpoint, timeout=TIMEOUT_S)  # whatever the answer is
    except (OSError, httpx.HTTPError):
        return False
    return True


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
