"""python -m lsprism VERB: exit codes 0 done, 1 failed while working, 2 asked for the impossible, 130 stopped."""

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.logging import RichHandler

from lsprism.cli import show
from lsprism.cli.follow import STOPPED, Display, errors, follow
from lsprism.cli.options import Parser, add_fields, dashed, fields_of
from lsprism.errors import LSPrismError
from lsprism.specs import CompressSpec, GenerateSpec, PlanSpec, ask

OUTPUT = Path("output")


def main(argv: list[str] | None = None) -> int:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        options = _parser().parse_args(dashed(sys.argv[1:] if argv is None else argv))
        _quiet()
        options.run(options)
        return 0
    except LSPrismError as error:
        errors.print(f"[red]error[/red] {error.message}", soft_wrap=True)
        if error.hint:
            errors.print(error.hint, soft_wrap=True)
        return error.exit_code
    except KeyboardInterrupt:
        errors.print(STOPPED)
        return 130
    except BrokenPipeError:  # the reader of our output has gone
        sys.stdout = None
        return 1


def _parser() -> Parser:
    parser = Parser(prog="python -m lsprism", description="Make a causal language model smaller and faster.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    compress = _verb(verbs, "compress", _compress, "prune and factorise a model, block by block")
    add_fields(compress, CompressSpec)
    compress.add_argument("--config", metavar="FILE", help="YAML file with the same settings; options override it")
    inspect = _verb(verbs, "inspect", _inspect, "what a compression would do, before anything is touched")
    add_fields(inspect, PlanSpec)
    inspect.add_argument("--config", metavar="FILE", help="YAML file with the same settings; options override it")
    generate = _verb(verbs, "generate", _generate, "answer a prompt")
    generate.add_argument("--model-id", "--model-path", dest="model_id", required=True, metavar="MODEL")
    generate.add_argument("--prompt", required=True, help="what to answer or to complete")
    generate.add_argument("--system", help="system prompt")
    generate.add_argument("--completion", action="store_true", help="complete the plain text: no chat template")
    generate.add_argument("--device", default="auto", metavar="X", help="auto, cpu, cuda or cuda:N")
    generate.add_argument("--dtype", default="auto", metavar="X", help="auto, bfloat16, float16 or float32")
    add_fields(generate, GenerateSpec)
    return parser


def _verb(verbs: Any, name: str, run: Any, summary: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=summary, description=summary)
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    return parser


def _compress(options: argparse.Namespace) -> None:
    fields = fields_of(options, CompressSpec)
    if "model_id" in fields:
        name = Path(str(fields["model_id"])).name
        fields.setdefault("save_path", OUTPUT / f"{name}-{fields.get('sparsity', 0.5)}")
    spec = ask(CompressSpec, **fields)
    from lsprism import api  # torch and transformers: only once the request is known to be sound

    with Display() as display:
        report = follow(lambda: api.compressing(spec), display.show)
    _answer(options, report, show.compression)


def _inspect(options: argparse.Namespace) -> None:
    spec = ask(PlanSpec, **fields_of(options, PlanSpec))
    from lsprism import api

    _answer(options, api.planning(spec), show.plan)


def _generate(options: argparse.Namespace) -> None:
    spec = ask(GenerateSpec, **fields_of(options, GenerateSpec))
    from lsprism import api

    loaded = api.load(options.model_id, options.device, options.dtype)
    text, last = "", None
    for last in api.generating(loaded, options.prompt, spec, system=options.system, chat=not options.completion):
        text += last.text
        if not options.json:
            print(last.text, end="", flush=True)
    timing = last.timing
    if options.json:
        _print_json({"text": text, "reason": last.reason, **vars(timing), "tokens_per_s": timing.tokens_per_s})
        return
    print()
    speed = f", {timing.tokens_per_s:.1f} tok/s after it" if timing.tokens_per_s else ""
    errors.print(f"{timing.tokens} tokens, first after {timing.first_token_s:.2f} s{speed}; ended by {last.reason}")


def _answer(options: argparse.Namespace, report: Any, table: Any) -> None:
    """The report on standard output, as JSON or as tables."""
    if options.json:
        print(report.model_dump_json(indent=2))
    else:
        Console(width=None if sys.stdout.isatty() else 140, highlight=False).print(table(report))


def _print_json(value: dict) -> None:
    import json

    print(json.dumps(value, indent=2, ensure_ascii=False))


def _quiet() -> None:
    """Our own notices through rich on standard error; the libraries' chatter not at all."""
    logging.basicConfig(level=logging.WARNING, handlers=[RichHandler(console=errors, show_path=False, show_time=False)])
    logging.getLogger("lsprism").setLevel(logging.INFO)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
