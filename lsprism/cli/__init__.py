"""The command line: options made from the specs, events shown with rich, reports as tables or JSON. The only prints."""

from lsprism.cli.main import main

__all__ = ["main"]
