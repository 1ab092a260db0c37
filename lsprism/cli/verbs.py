"""The commands: each makes a spec from its options, calls one function of the API and prints the result.

The API is imported inside the functions, after the options are validated: loading torch and transformers takes seconds.
"""

import argparse
import signal
from typing import TYPE_CHECKING

from lsprism.cli import show
from lsprism.cli.display import Display, say
from lsprism.cli.follow import follow
from lsprism.cli.measuring import MEASURING
from lsprism.cli.options import add_options, asked, given, options_of
from lsprism.cli.recorded import recorded
from lsprism.cli.runs import RUNS
from lsprism.cli.verb import Verb, answer, config_option, place_for, print_json
from lsprism.errors import SpecError
from lsprism.specs import KERNEL, CompressSpec, EvaluateSpec, GenerateSpec, PlanSpec
from lsprism.ui import serve

if TYPE_CHECKING:
    from lsprism.models.load import LoadedModel


COMPRESS = options_of(CompressSpec)
PLAN = options_of(PlanSpec)
LOAD = [o for o in PLAN if o.name in ("model_id", "revision", "device", "dtype", "compute_dtype")]
ANY_MODEL = [o for o in options_of(EvaluateSpec) if o.name == "model_id"]  # its help includes artifacts
STATS = LOAD + [o for o in PLAN if o.path[0] == "calibration"]
GENERATE = options_of(GenerateSpec)


def _compress_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, COMPRESS)
    config_option(parser)


def _compress(options: argparse.Namespace) -> None:
    fields = given(options, COMPRESS)
    if "model_id" in fields:
        fields.setdefault("save_path", place_for(fields["model_id"], fields.get("sparsity", "0.5")))
    spec = asked(CompressSpec, fields)
    with recorded("compress", spec) as take:
        from lsprism import api

        report = follow(lambda: api.compressing(spec), take)
    answer(options, report, show.compression)


def _inspect_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, PLAN)
    config_option(parser)


def _inspect(options: argparse.Namespace) -> None:
    spec = asked(PlanSpec, given(options, PLAN))
    from lsprism import api

    answer(options, api.planning(spec), show.plan)


def _export_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, ANY_MODEL + [o for o in PLAN if o.name == "revision"])
    parser.add_argument("--save-path", metavar="PATH", help="folder for the dense copy")
    parser.add_argument("--push-to-hub", metavar="OWNER/NAME", default="", help="also upload it to this Hub repository")
    parser.add_argument("--public", action="store_true", help="make that repository public (default: private)")


def _export(options: argparse.Namespace) -> None:
    spec = asked(CompressSpec, given(options, COMPRESS))  # only its model and folder are used
    if options.public and not options.push_to_hub:
        raise SpecError("--public requires --push-to-hub.", "Add --push-to-hub OWNER/NAME.")
    from lsprism import api

    with Display() as display:
        how = (options.push_to_hub, options.public, spec.revision)
        follow(lambda: api.exporting(spec.model_id, spec.save_path, *how), display.show)
    if options.json:
        print_json({"save_path": str(spec.save_path), "repository": options.push_to_hub or None})
    else:
        print(spec.save_path)


def _stats_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, STATS)


def _stats(options: argparse.Namespace) -> None:
    spec = asked(PlanSpec, given(options, STATS))
    from lsprism import api

    with Display() as display:
        report = follow(lambda: api.check_stats(spec), display.show)
    answer(options, report, show.stats)


def _generate_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, ANY_MODEL + [o for o in LOAD if o.name != "model_id"])
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="the prompt to answer or complete")
    parser.add_argument("--system", metavar="TEXT", help="system prompt")
    parser.add_argument("--completion", action="store_true", help="continue the raw prompt, without chat template")
    parser.add_argument("--kernel", default="auto", metavar="NAME", help=f"{KERNEL} (default auto)")
    add_options(parser, GENERATE)


def _generate(options: argparse.Namespace) -> None:
    model = asked(PlanSpec, given(options, LOAD))  # only these fields are used
    spec = asked(GenerateSpec, given(options, GENERATE))
    from lsprism import api
    from lsprism.layers.compute_dtype import using_compute_dtype
    from lsprism.layers.kernels.dispatch import using

    with using(options.kernel), using_compute_dtype(model.compute_dtype):
        loaded = api.load(model.model_id, model.device, model.dtype, model.revision)
        _say_answer(loaded, options, spec)


def _say_answer(loaded: "LoadedModel", options: argparse.Namespace, spec: GenerateSpec) -> None:
    from lsprism import api

    text = ""
    try:
        for piece in api.generating(loaded, options.prompt, spec, system=options.system, chat=not options.completion):
            text += piece.text
            if not options.json:
                print(piece.text, end="", flush=True)
    finally:
        if not options.json:
            print()
    timing = piece.timing
    if options.json:
        print_json({"text": text, "reason": piece.reason, **vars(timing), "tokens_per_s": timing.tokens_per_s})
        return
    speed = f", then {timing.tokens_per_s:.1f} tokens/s" if timing.tokens_per_s else ""
    say(f"{timing.tokens} tokens, the first after {timing.first_token_s:.2f} s{speed}; stopped by {piece.reason}")


def _dashboard(options: argparse.Namespace) -> None:
    """Like app.py: Ctrl-C closes the dashboard; the runs that it started continue."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    serve.serve(options)


VERBS = {
    "compress": Verb(
        "compress a model",
        "--model-id demo --method hybrid --sparsity 0.5 --save-path output/demo-0.5",
        _compress_options,
        _compress,
        resumable=True,
    ),
    "inspect": Verb(
        "dry run: plan, size, memory and time of a compression",
        "--model-id demo --sparsity 0.5",
        _inspect_options,
        _inspect,
    ),
    "generate": Verb(
        "generate text from a prompt",
        '--model-id output/demo-0.5 --prompt "Why is the sky blue?"',
        _generate_options,
        _generate,
    ),
    "export": Verb(
        "export a dense copy that loads without LS-PRISM",
        "--model-id output/demo-0.5 --save-path output/demo-dense",
        _export_options,
        _export,
    ),
    "check-stats": Verb(
        "activation statistics: the inputs of every layer",
        "--model-id demo --samples 16",
        _stats_options,
        _stats,
    ),
    **MEASURING,
    "runs": RUNS,
    "dashboard": Verb(
        "open the dashboard in the browser",
        "--port 7860 --open",
        serve.add_options,
        _dashboard,
        reports=False,
    ),
}
