"""A command of the command line, and how it prints its result."""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from rich.console import Console, RenderableType

from lsprism.paths import expand

OUTPUT = Path("output")  # default folder for results
PIPE_WIDTH = 120  # columns of a table written to a file or a pipe


@dataclass(frozen=True)
class CliCommand:
    summary: str
    example: str  # one per line
    options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]
    resumable: bool = False
    reports: bool = True  # prints a result; with --json as JSON
    usage: str = "[options]"
    hidden: bool = False  # an old name, left out of help


def suggest_output_path(model_id: str, ending: str) -> Path:
    """The default output path: output/MODEL-ENDING, also for a model such as '.' or '~/x'."""
    return OUTPUT / f"{Path(os.path.abspath(expand(model_id))).name}-{ending}"


def add_config_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="YAML file with options; the command line overrides it")


def print_report(options: argparse.Namespace, report: BaseModel, table: Callable[[Any], RenderableType]) -> None:
    """Print the report to standard output, as JSON or as tables."""
    if options.json:
        _print_json(report.model_dump_json(indent=2))
    else:
        print_table(table(report))


def print_table(table: RenderableType) -> None:
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    Console(width=width, highlight=False, markup=False, emoji=False).print(table)


def print_json(value: dict[str, Any] | list[Any]) -> None:
    _print_json(json.dumps(value, indent=2, ensure_ascii=False))


def _print_json(text: str) -> None:
    """If standard output is not UTF-8, with JSON escapes."""
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "").replace("_", "")
    print(text if encoding.startswith("utf") else re.sub("[^\0-\x7f]", lambda found: json.dumps(found[0])[1:-1], text))
