"""Prompts for evaluation: the built-in ones in assets/tasks/, a user's file in the same format, or a Hub dataset.

A .jsonl file holds one prompt per line, a .json file a list of them:
    {"id": "rain-1", "prompt": "...", "reference": "...", "checks": [{"kind": "number", "value": 4}]}
Only `prompt` is required. Summaries have a reference; prompts with a checkable answer have checks (see
answer_checks.py).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from lsprism.errors import CorpusError, SpecError
from lsprism.evaluation.answer_checks import Check
from lsprism.evaluation.hub_tasks import HUB_TASKS, load_hub_rows
from lsprism.paths import ASSETS, expand
from lsprism.records.model_plan import Record
from lsprism.specs import TASKS, Request


class TaskPrompt(Request):
    """One prompt, with reference and checks for its output."""

    id: str = Field(min_length=1)
    prompt: str = Field(min_length=1)
    reference: str | None = Field(None, min_length=1)
    checks: tuple[Check, ...] = ()
    max_new_tokens: int = Field(128, ge=1, le=131072)

    @field_validator("prompt", "reference")
    @classmethod
    def _check_not_blank(cls, text: str | None) -> str | None:
        if text is not None and not text.strip():
            raise ValueError("is blank")
        return text


class Task(Record):
    """The prompts of a task; `total`: how many exist, None if unknown."""

    name: str
    origin: str
    prompts: tuple[TaskPrompt, ...]
    total: int | None

    @property
    def label(self) -> str:
        """The name with the number of prompts; a subset is labeled as such."""
        count = len(self.prompts)
        of = "" if self.total == count else f" of {self.total}, a subset" if self.total else " of more, a subset"
        return f"{self.name} ({count} prompt{'s' * (count != 1)}{of})"


def load_task(name: str, limit: int | None = None) -> Task:
    """The first `limit` prompts (None: all; 20 for Hub datasets) of a built-in task, a .jsonl or .json file, or
    cnn_dailymail, xsum, samsum.

    Raises SpecError for an unknown task; CorpusError, with the line, if a file cannot be read or a prompt is invalid,
    or if the Hub cannot be reached.
    """
    if limit is not None and limit < 1:
        raise SpecError(f"--limit must be at least 1, got {limit}.", "Leave it out for all prompts.")
    if name in HUB_TASKS:
        rows = load_hub_rows(name, limit)
        prompts = tuple(_parse_prompt(f"{name}, row {n}", row, n) for n, row in enumerate(rows, start=1))
        return Task(name=name, origin=HUB_TASKS[name].origin, prompts=prompts, total=None)
    if name in TASKS:
        path, origin = ASSETS / "tasks" / f"{name}.json", "built-in prompts"
    else:
        path, origin = expand(name), f"file {Path(name).name}"
    prompts = _read(path)
    return Task(name=path.stem, origin=origin, prompts=prompts[:limit], total=len(prompts))


def _read(path: Path) -> tuple[TaskPrompt, ...]:
    prompts: dict[str, TaskPrompt] = {}
    for number, (where, row) in enumerate(_iter_rows(path), start=1):
        prompt = _parse_prompt(where, row, number)
        if prompt.id in prompts:
            raise CorpusError(f"{where}: duplicate id {prompt.id!r}.", "Give every prompt a unique id.")
        prompts[prompt.id] = prompt
    if not prompts:
        raise CorpusError(f"'{path}' has no prompts.", 'Write lines such as {"prompt": "..."}.')
    return tuple(prompts.values())


def _iter_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the location and content of each prompt."""
    text = _read_text(path)
    if path.suffix.lower() == ".json":
        rows = _parse_json(f"'{path}'", text)
        for number, row in enumerate(rows if isinstance(rows, list) else [rows], start=1):
            yield f"'{path}', prompt {number}", row
        return
    # Split at "\n" only: str.splitlines would also split at U+2028, which JSON allows inside a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield (where := f"'{path}', line {number}"), _parse_json(where, line)


def _read_text(path: Path) -> str:
    if path.suffix.lower() not in (".json", ".jsonl"):
        known = ", ".join((*TASKS, *HUB_TASKS))
        raise SpecError(f"Unknown task {str(path)!r}.", f"Choose one of {known}, or a .jsonl file of prompts.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"'{path}' is not UTF-8 text: {error.reason} at byte {error.start}."
        raise CorpusError(message, "Save it as UTF-8 and try again.") from error
    except OSError as error:
        message = f"'{path}' cannot be read: {error.strerror or error}."
        raise CorpusError(message, "Check the path and its permissions.") from error


def _parse_json(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{where} is not JSON: {error}.", "Fix or remove it.") from error


def _parse_prompt(where: str, row: Any, number: int) -> TaskPrompt:
    if not isinstance(row, dict):
        raise CorpusError(f"{where} is not a JSON object.", 'Write {"prompt": "..."}.')
    try:
        return TaskPrompt(**{"id": str(number), **row})
    except ValidationError as error:
        raise CorpusError(f"{where}: {_format_error(error)}.", _list_fields()) from None


def _format_error(error: ValidationError) -> str:
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return f"unknown field {field!r}"
    if first["type"] == "missing":
        return f"the field {field!r} is missing"
    return f"{field}: {first['msg'][:1].lower()}{first['msg'][1:]}, got {first['input']!r}"


def _list_fields() -> str:
    return f"A prompt's fields are: {', '.join(TaskPrompt.model_fields)}."
