"""The command line: options from the specs, progress with rich, reports as tables or JSON. Only this package prints."""

from lsprism.cli.main import main

__all__ = ["main"]
