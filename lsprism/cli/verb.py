"""What a verb is, and how it answers."""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from rich.console import Console, RenderableType

OUTPUT = Path("output")  # where results go if nothing else is said
PIPE_WIDTH = 120  # columns of a table that goes into a file or a pipe


@dataclass(frozen=True)
class Verb:
    summary: str
    example: str
    options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]
    resumable: bool = False


def config_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="YAML file of the same options; the command line overrides it")


def answer(options: argparse.Namespace, report: BaseModel, table: Callable[[Any], RenderableType]) -> None:
    """The report on standard output, as JSON or as tables."""
    if options.json:
        print(report.model_dump_json(indent=2))
    else:
        print_table(table(report))


def print_table(table: RenderableType) -> None:
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    Console(width=width, highlight=False, markup=False, emoji=False).print(table)


def print_json(value: dict | list) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))
