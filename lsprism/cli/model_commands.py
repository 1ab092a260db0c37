"""The commands: each makes a spec from its options, calls one function of the API and prints the result.

The API is imported inside the functions, after the options are validated: loading torch and transformers takes seconds.
"""

import argparse
import signal
from typing import TYPE_CHECKING

from lsprism.cli import tables
from lsprism.cli.command import CliCommand, add_config_option, print_json, print_report, suggest_output_path
from lsprism.cli.display import Display, print_line
from lsprism.cli.evaluate_commands import MEASURING
from lsprism.cli.options import add_options, build_spec, collect_options, list_options
from lsprism.cli.recorded_run import show_and_record
from lsprism.cli.run_commands import RUNS
from lsprism.cli.worker_thread import show_events
from lsprism.errors import SpecError
from lsprism.specs import KERNEL, CompressSpec, EvaluateSpec, GenerateSpec, PlanSpec
from lsprism.ui import serve

if TYPE_CHECKING:
    from lsprism.models.load import LoadedModel


COMPRESS = list_options(CompressSpec)
PLAN = list_options(PlanSpec)
LOAD = [o for o in PLAN if o.name in ("model_id", "revision", "device", "dtype", "compute_dtype")]
ANY_MODEL = [o for o in list_options(EvaluateSpec) if o.name == "model_id"]  # its help includes artifacts
STATS = LOAD + [o for o in PLAN if o.path[0] == "calibration"]
GENERATE = list_options(GenerateSpec)


def _add_compress_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, COMPRESS)
    add_config_option(parser)


def _run_compress(options: argparse.Namespace) -> None:
    fields = collect_options(options, COMPRESS)
    if "model_id" in fields:
        fields.setdefault("save_path", suggest_output_path(fields["model_id"], fields.get("sparsity", "0.5")))
    spec = build_spec(CompressSpec, fields)
    with show_and_record("compress", spec) as take:
        from lsprism import api

        report = show_events(lambda: api.stream_compress(spec), take)
    print_report(options, report, tables.render_compression)


def _add_inspect_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, PLAN)
    add_config_option(parser)


def _run_inspect(options: argparse.Namespace) -> None:
    spec = build_spec(PlanSpec, collect_options(options, PLAN))
    from lsprism import api

    print_report(options, api.plan_from_spec(spec), tables.render_plan)


def _add_export_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, ANY_MODEL + [o for o in PLAN if o.name == "revision"])
    parser.add_argument("--save-path", metavar="PATH", help="folder for the dense copy")
    parser.add_argument("--push-to-hub", metavar="OWNER/NAME", default="", help="also upload it to this Hub repository")
    parser.add_argument("--public", action="store_true", help="make that repository public (default: private)")


def _run_export(options: argparse.Namespace) -> None:
    spec = build_spec(CompressSpec, collect_options(options, COMPRESS))  # only its model and folder are used
    if options.public and not options.push_to_hub:
        raise SpecError("--public requires --push-to-hub.", "Add --push-to-hub OWNER/NAME.")
    from lsprism import api

    with Display() as display:
        how = (options.push_to_hub, options.public, spec.revision)
        show_events(lambda: api.stream_export(spec.model_id, spec.save_path, *how), display.show)
    if options.json:
        print_json({"save_path": str(spec.save_path), "repository": options.push_to_hub or None})
    else:
        print(spec.save_path)


def _add_stats_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, STATS)


def _run_stats(options: argparse.Namespace) -> None:
    spec = build_spec(PlanSpec, collect_options(options, STATS))
    from lsprism import api

    with Display() as display:
        report = show_events(lambda: api.check_stats(spec), display.show)
    print_report(options, report, tables.render_stats)


def _add_generate_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, ANY_MODEL + [o for o in LOAD if o.name != "model_id"])
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="the prompt to answer or complete")
    parser.add_argument("--system", metavar="TEXT", help="system prompt")
    parser.add_argument("--completion", action="store_true", help="continue the raw prompt, without chat template")
    parser.add_argument("--kernel", default="auto", metavar="NAME", help=f"{KERNEL} (default auto)")
    add_options(parser, GENERATE)


def _run_generate(options: argparse.Namespace) -> None:
    model = build_spec(PlanSpec, collect_options(options, LOAD))  # only these fields are used
    spec = build_spec(GenerateSpec, collect_options(options, GENERATE))
    from lsprism import api
    from lsprism.packed.compute_dtype import use_compute_dtype
    from lsprism.packed.kernels.dispatch import use_kernel

    with use_kernel(options.kernel), use_compute_dtype(model.compute_dtype):
        loaded = api.load(model.model_id, model.device, model.dtype, model.revision)
        _print_answer(loaded, options, spec)


def _print_answer(loaded: "LoadedModel", options: argparse.Namespace, spec: GenerateSpec) -> None:
    from lsprism import api

    text = ""
    try:
        for piece in api.stream_generate(
            loaded, options.prompt, spec, system=options.system, chat=not options.completion
        ):
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
    print_line(
        f"{timing.tokens} tokens, the first after {timing.first_token_s:.2f} s{speed}; stopped by {piece.reason}"
    )


def _run_dashboard(options: argparse.Namespace) -> None:
    """Like app.py: Ctrl-C closes the dashboard; the runs that it started continue."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    serve.serve(options)


COMMANDS = {
    "compress": CliCommand(
        "compress a model",
        "--model-id demo --method hybrid --sparsity 0.5 --save-path output/demo-0.5",
        _add_compress_options,
        _run_compress,
        resumable=True,
    ),
    "inspect": CliCommand(
        "dry run: plan, size, memory and time of a compression",
        "--model-id demo --sparsity 0.5",
        _add_inspect_options,
        _run_inspect,
    ),
    "generate": CliCommand(
        "generate text from a prompt",
        '--model-id output/demo-0.5 --prompt "Why is the sky blue?"',
        _add_generate_options,
        _run_generate,
    ),
    "export": CliCommand(
        "export a dense copy that loads without LS-PRISM",
        "--model-id output/demo-0.5 --save-path output/demo-dense",
        _add_export_options,
        _run_export,
    ),
    "check-stats": CliCommand(
        "activation statistics: the inputs of every layer",
        "--model-id demo --samples 16",
        _add_stats_options,
        _run_stats,
    ),
    **MEASURING,
    "runs": RUNS,
    "dashboard": CliCommand(
        "open the dashboard in the browser",
        "--port 7860 --open",
        serve.add_options,
        _run_dashboard,
        reports=False,
    ),
}
