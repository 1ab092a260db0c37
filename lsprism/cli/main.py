"""python -m lsprism VERB: exit codes 0 done, 1 failed while working, 2 asked for the impossible, 130 stopped."""

import logging
import os
import sys
from argparse import RawDescriptionHelpFormatter
from contextlib import suppress
from io import TextIOWrapper, UnsupportedOperation

from rich.logging import RichHandler

import lsprism
from lsprism.cli.display import errors, say
from lsprism.cli.follow import STOPPED, stoppable
from lsprism.cli.options import Parser, dashed
from lsprism.cli.verbs import VERBS
from lsprism.errors import LSPrismError, SpecError
from lsprism.runs.yaml_options import closest

PROGRAM = "python -m lsprism"


def main(argv: list[str] | None = None) -> int:
    """Carry out one command and return its exit code."""
    _quiet()
    _encode_anything()
    words = dashed(sys.argv[1:] if argv is None else argv)
    try:
        with stoppable():
            code = _run(words)
        sys.stdout.flush()  # here, where a reader that has gone is no surprise
        return code
    except LSPrismError as error:
        say("error ", "bold red", error.message)
        if hint := error.hint or error.cli_hint:
            say(hint)
        return error.exit_code
    except KeyboardInterrupt:
        goes_on = bool(words) and words[0] in VERBS and VERBS[words[0]].resumable
        say("Stopped. The same command with --resume goes on where it was." if goes_on else "Stopped.")
        return STOPPED
    except BrokenPipeError:  # the reader of our output has gone; Python would complain once more when it flushes
        with suppress(UnsupportedOperation):  # standard output may be no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(words: list[str]) -> int:
    parser = _parser()
    if not words:
        parser.print_help(sys.stderr)
        return 2
    try:
        options, unknown = parser.parse_known_args(words)
    except SystemExit:  # after --help or --version
        return 0
    if unknown:
        flag = unknown[0].partition("=")[0]
        raise SpecError(
            f"{options.verb} has no option {flag}.",
            closest(flag, options.flags) or f"See {PROGRAM} {options.verb} --help.",
        )
    if options.verb == "compress":
        # Threads that wait for each other sleep instead of spinning on a core that another process could have, such as
        # the page from which the run was started. To be set before torch is there. (Decoding is too fine for it.)
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    VERBS[options.verb].run(options)
    return 0


def _parser() -> Parser:
    parser = Parser(prog=PROGRAM, description="Make a causal language model smaller and faster.")
    parser.add_argument("--version", action="version", version=f"lsprism {lsprism.__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", title="verbs")
    for name, verb in VERBS.items():
        own = verbs.add_parser(
            name,
            help=verb.summary,
            usage=f"{PROGRAM} {name} [options]",
            description=f"{verb.summary[:1].upper()}{verb.summary[1:]}.",
            epilog=f"example:\n  {PROGRAM} {name} {verb.example}",
            formatter_class=RawDescriptionHelpFormatter,
        )
        verb.options(own)
        own.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
        own.set_defaults(flags=list(own._option_string_actions))
    return parser


def _encode_anything() -> None:
    """Escape what the encoding of an output lacks (latin-1, ASCII, names that are not UTF-8), instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _quiet() -> None:
    """Our own notices through rich on standard error; the libraries' chatter not at all."""
    for name, value in (
        ("HF_HUB_DISABLE_TELEMETRY", "1"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ("TOKENIZERS_PARALLELISM", "false"),
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("TQDM_DISABLE", "1"),
    ):
        os.environ.setdefault(name, value)
    handler = RichHandler(console=errors, show_path=False, show_time=False, show_level=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("lsprism").setLevel(logging.INFO)
