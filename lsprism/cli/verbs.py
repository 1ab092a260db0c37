"""The verbs: each makes a spec of its options, calls one function of the API, and shows what comes of it.

The API is imported inside, once the request is known to be sound: it takes seconds to load torch and transformers.
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
from lsprism.specs import KERNEL, CompressSpec, GenerateSpec, PlanSpec
from lsprism.ui import serve

if TYPE_CHECKING:
    from lsprism.models.load import LoadedModel


COMPRESS = options_of(CompressSpec)
PLAN = options_of(PlanSpec)
LOAD = [o for o in PLAN if o.name in ("model_id", "revision", "device", "dtype", "compute_dtype")]
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
    add_options(parser, [o for o in COMPRESS if o.name in ("model_id", "revision", "save_path")])
    parser.add_argument("--push-to-hub", metavar="REPO", default="", help="send the copy to the hub as USER/NAME")
    parser.add_argument("--public", action="store_true", help="make that repository public; without this it is private")


def _export(options: argparse.Namespace) -> None:
    spec = asked(CompressSpec, given(options, COMPRESS))  # of which only the model and the folder are asked here
    if options.public and not options.push_to_hub:
        raise SpecError("--public says how to push, and --push-to-hub is missing.", "Name the repository.")
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
    add_options(parser, LOAD)
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="what to answer or to complete")
    parser.add_argument("--system", metavar="TEXT", help="system prompt")
    parser.add_argument("--completion", action="store_true", help="complete the plain text: no chat template")
    parser.add_argument(
        "--kernel",
        default="auto",
        metavar="WHICH",
        help=KERNEL,
    )
    add_options(parser, GENERATE)


def _generate(options: argparse.Namespace) -> None:
    model = asked(PlanSpec, given(options, LOAD))  # of which only these are asked here
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
    speed = f", {timing.tokens_per_s:.1f} tokens/s after it" if timing.tokens_per_s else ""
    say(f"{timing.tokens} tokens, the first after {timing.first_token_s:.2f} s{speed}; ended by {piece.reason}")


def _dashboard(options: argparse.Namespace) -> None:
    """As app.py does it: Ctrl-C closes the page only, and the runs that it started continue."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    serve.serve(options)


VERBS = {
    "compress": Verb(
        "prune and factorise a model, block by block",
        "--model-id demo --method hybrid --sparsity 0.5 --save-path output/demo-0.5",
        _compress_options,
        _compress,
        resumable=True,
    ),
    "inspect": Verb(
        "what a compression would do, before anything is touched",
        "--model-id demo --sparsity 0.5",
        _inspect_options,
        _inspect,
    ),
    "generate": Verb(
        "answer a prompt",
        '--model-id output/demo-0.5 --prompt "Why is the sky blue?"',
        _generate_options,
        _generate,
    ),
    "export": Verb(
        "plain dense safetensors of any source, which need no LS-PRISM",
        "--model-id output/demo-0.5 --save-path output/demo-dense",
        _export_options,
        _export,
    ),
    "check-stats": Verb(
        "what flows into every layer of a model",
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
