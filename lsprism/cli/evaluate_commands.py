"""The commands that evaluate: evaluate, benchmark, sweep, spectra, compare."""

import argparse
from dataclasses import replace
from typing import Any

from lsprism.cli import tables
from lsprism.cli.command import (
    CliCommand,
    add_config_option,
    print_json,
    print_report,
    print_table,
    suggest_output_path,
)
from lsprism.cli.display import print_line
from lsprism.cli.options import add_options, build_spec, collect_options, list_options
from lsprism.cli.recorded_run import show_and_record
from lsprism.cli.worker_thread import show_events
from lsprism.errors import SpecError
from lsprism.specs import TASKS, EvaluateSpec, SpectraSpec, SweepSpec

EVALUATE = list_options(EvaluateSpec)
SWEEP = list_options(SweepSpec)
SPECTRA = list_options(SpectraSpec)
BENCHMARK = [
    option
    for option in EVALUATE
    if option.path[0] != "measuring" or option.name in ("quick", "limit", "answer_tokens", "judge")
]
FORMATS = ("table", "markdown", "csv")


def _add_evaluate_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, EVALUATE)
    add_config_option(parser)


def _run_evaluate(options: argparse.Namespace) -> None:
    _run_evaluation(options, collect_options(options, EVALUATE), "evaluation")


def _add_benchmark_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--task",
        metavar="TASK",
        required=True,
        help=f"prompt task: {', '.join(TASKS)}, all of these (all), cnn_dailymail, xsum, samsum, or a .jsonl file",
    )
    add_options(parser, BENCHMARK)


def _run_benchmark(options: argparse.Namespace) -> None:
    fields = collect_options(options, BENCHMARK)
    tasks = TASKS if options.task == "all" else options.task
    fields["measuring"] = {**fields.get("measuring", {}), "measures": "text", "tasks": tasks}
    _run_evaluation(options, fields, "benchmark")


def _run_evaluation(options: argparse.Namespace, fields: dict[str, Any], name: str) -> None:
    _set_save_path(fields, name)
    spec = build_spec(EvaluateSpec, fields)
    with show_and_record("evaluate", spec) as take:
        from lsprism import evaluation_api

        report = show_events(lambda: evaluation_api.stream_evaluate(spec), take)
    print_report(options, report, tables.render_evaluation)
    assert spec.save_path is not None
    print_line(f"HTML report: {spec.save_path / 'report.html'}")


def _set_save_path(fields: dict[str, Any], name: str) -> None:
    """The default: output/MODEL-NAME."""
    if "model_id" in fields:
        fields.setdefault("save_path", suggest_output_path(fields["model_id"], name))


def _add_sweep_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, SWEEP)
    add_config_option(parser)


def _run_sweep(options: argparse.Namespace) -> None:
    fields = collect_options(options, SWEEP)
    _set_save_path(fields, options.verb)
    spec = build_spec(SweepSpec, fields)
    with show_and_record("sweep", spec) as take:
        from lsprism import evaluation_api

        report = show_events(lambda: evaluation_api.stream_study(spec), take)
    print_report(options, report, tables.render_study)
    print_line(f"HTML report: {spec.save_path / 'study.html'}")


def _add_compare_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reports", nargs="+", metavar="REPORT", help="report.json, study.json, or a folder with one")
    parser.add_argument("--figures", metavar="LIST", help="columns, such as kept,perplexity,speedup (default: all)")
    choices = "{" + ",".join(FORMATS) + "}"
    parser.add_argument("--format", metavar=choices, default="table", help="output format (default table)")


def _run_compare(options: argparse.Namespace) -> None:
    if options.format not in FORMATS:
        raise SpecError(f"Unknown --format {options.format!r}.", f"Choose from {', '.join(FORMATS)}.")
    from lsprism.charts.report_files import compare
    from lsprism.charts.table import to_csv, to_markdown

    table = compare(options.reports, options.figures.split(",") if options.figures else None)
    if options.json:
        print_json(tables.to_plain_values(table))
    elif options.format == "table":
        print_table(tables.render_comparison(table))
    else:
        print({"markdown": to_markdown, "csv": to_csv}[options.format](table), end="")


def _add_spectra_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, SPECTRA)


def _run_spectra(options: argparse.Namespace) -> None:
    fields = collect_options(options, SPECTRA)
    if "model_id" in fields:
        fields.setdefault("save_path", suggest_output_path(fields["model_id"], "spectra.jsonl"))
    spec = build_spec(SpectraSpec, fields)
    with show_and_record("spectra", spec) as take:
        from lsprism import evaluation_api

        show_events(lambda: evaluation_api.stream_spectra(spec), take)
    if options.json:
        print_json({"save_path": str(spec.save_path)})
    else:
        print_line(f"Singular values written to {spec.save_path}.")


SWEEP_COMMAND = CliCommand(
    "sweep over sparsities: compress, evaluate and recommend one",
    "--model-id demo --sparsities 0.3,0.5",
    _add_sweep_options,
    _run_sweep,
    resumable=True,
)
MEASURING = {
    "evaluate": CliCommand(
        "evaluate a model against its baseline",
        "--model-path output/demo-0.5",
        _add_evaluate_options,
        _run_evaluate,
        resumable=True,
    ),
    "benchmark": CliCommand(
        "compare completions of a model and its baseline on prompt tasks",
        "--model-path output/demo-0.5 --task summarization",
        _add_benchmark_options,
        _run_benchmark,
        resumable=True,
    ),
    "sweep": SWEEP_COMMAND,
    "study": replace(SWEEP_COMMAND, hidden=True),  # its name in earlier versions
    "spectra": CliCommand(
        "singular values of every compressed layer, before and after",
        "--model-path output/demo-0.5",
        _add_spectra_options,
        _run_spectra,
    ),
    "compare": CliCommand(
        "compare reports in one table",
        "output/demo-sweep --format markdown",
        _add_compare_options,
        _run_compare,
        usage="REPORT [REPORT ...] [options]",
    ),
}
