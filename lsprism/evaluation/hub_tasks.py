"""Summarization datasets of the Hugging Face Hub as prompts, streamed instead of downloaded."""

from dataclasses import dataclass
from itertools import islice
from typing import Any

from lsprism.calibration.hub_text import translate_hub_errors
from lsprism.errors import CorpusError

SPLIT = "test"
LIMIT = 20  # default number of rows
MOST_WORDS = 600  # words per text, so that prompt and output fit in a context of 2048 tokens
REMEDY = "Use the built-in task summarization, or your own .jsonl file."


@dataclass(frozen=True)
class HubTask:
    """A dataset: its Hub id and configuration, the columns of text and summary, and the instruction."""

    path: str
    config: str | None
    text: str
    summary: str
    ask: str
    max_new_tokens: int

    @property
    def origin(self) -> str:
        """Dataset, split and subset, for reports."""
        return f"first rows of {self.path} ({SPLIT}), texts truncated to {MOST_WORDS} words"


HUB_TASKS = {
    "cnn_dailymail": HubTask(
        "abisee/cnn_dailymail", "3.0.0", "article", "highlights", "Summarize this article in three sentences.", 128
    ),
    "xsum": HubTask("EdinburghNLP/xsum", None, "document", "summary", "Summarize this article in one sentence.", 64),
    "samsum": HubTask(
        "knkarthick/samsum", None, "dialogue", "summary", "Summarize this conversation in two sentences.", 96
    ),
}


def load_hub_rows(name: str, limit: int | None = None) -> list[dict[str, Any]]:
    """The first rows as fields of a TaskPrompt. CorpusError if the Hub cannot be reached or a column is missing."""
    import datasets
    import huggingface_hub

    task = HUB_TASKS[name]
    with translate_hub_errors(task.path, REMEDY):
        huggingface_hub.dataset_info(task.path, timeout=10)  # tries once; load_dataset would retry for 30 s
        rows = datasets.load_dataset(task.path, task.config, split=SPLIT, streaming=True)
        first = list(islice(rows, limit or LIMIT))
    return [_make_fields(task, f"{name}-{n}", row) for n, row in enumerate(first, start=1)]


def _make_fields(task: HubTask, identity: str, row: dict[str, Any]) -> dict[str, Any]:
    for column in (task.text, task.summary):
        if not isinstance(row.get(column), str):
            raise CorpusError(f"{task.path}: {identity} has no text in the column {column!r}.", REMEDY)
    return {
        "id": identity,
        "prompt": f"{task.ask}\n\n{_cut(row[task.text])}",
        "reference": row[task.summary],
        "max_new_tokens": task.max_new_tokens,
    }


def _cut(text: str) -> str:
    """The first MOST_WORDS words, unchanged."""
    words = text.split(" ")
    return " ".join(words[:MOST_WORDS])
