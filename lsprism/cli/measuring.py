"""The commands that evaluate: evaluate, benchmark, sweep, spectra, compare."""

import argparse
from dataclasses import replace
from typing import Any

from lsprism.cli import show
from lsprism.cli.display import say
from lsprism.cli.follow import follow
from lsprism.cli.options import add_options, asked, given, options_of
from lsprism.cli.recorded import recorded
from lsprism.cli.verb import Verb, answer, config_option, place_for, print_json, print_table
from lsprism.errors import SpecError
from lsprism.specs import TASKS, EvaluateSpec, SpectraSpec, StudySpec

EVALUATE = options_of(EvaluateSpec)
SWEEP = options_of(StudySpec)
SPECTRA = options_of(SpectraSpec)
BENCHMARK = [
    option
    for option in EVALUATE
    if option.path[0] != "measuring" or option.name in ("quick", "limit", "answer_tokens", "judge")
]
FORMATS = ("table", "markdown", "csv")


def _evaluate_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, EVALUATE)
    config_option(parser)


def _evaluate(options: argparse.Namespace) -> None:
    _run_evaluation(options, given(options, EVALUATE), "evaluation")


def _benchmark_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--task",
        metavar="TASK",
        required=True,
        help=f"prompt task: {', '.join(TASKS)}, all of these (all), cnn_dailymail, xsum, samsum, or a .jsonl file",
    )
    add_options(parser, BENCHMARK)


def _benchmark(options: argparse.Namespace) -> None:
    fields = given(options, BENCHMARK)
    tasks = TASKS if options.task == "all" else options.task
    fields["measuring"] = {**fields.get("measuring", {}), "measures": "text", "tasks": tasks}
    _run_evaluation(options, fields, "benchmark")


def _run_evaluation(options: argparse.Namespace, fields: dict[str, Any], name: str) -> None:
    _set_save_path(fields, name)
    spec = asked(EvaluateSpec, fields)
    with recorded("evaluate", spec) as take:
        from lsprism import measure

        report = follow(lambda: measure.evaluating(spec), take)
    answer(options, report, show.evaluation)
    assert spec.save_path is not None
    say(f"HTML report: {spec.save_path / 'report.html'}")


def _set_save_path(fields: dict[str, Any], name: str) -> None:
    """The default: output/MODEL-NAME."""
    if "model_id" in fields:
        fields.setdefault("save_path", place_for(fields["model_id"], name))


def _sweep_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, SWEEP)
    config_option(parser)


def _sweep(options: argparse.Namespace) -> None:
    fields = given(options, SWEEP)
    _set_save_path(fields, options.verb)
    spec = asked(StudySpec, fields)
    with recorded("sweep", spec) as take:
        from lsprism import measure

        report = follow(lambda: measure.studying(spec), take)
    answer(options, report, show.study)
    say(f"HTML report: {spec.save_path / 'study.html'}")


def _compare_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reports", nargs="+", metavar="REPORT", help="report.json, study.json, or a folder with one")
    parser.add_argument("--figures", metavar="LIST", help="columns, such as kept,perplexity,speedup (default: all)")
    choices = "{" + ",".join(FORMATS) + "}"
    parser.add_argument("--format", metavar=choices, default="table", help="output format (default table)")


def _compare(options: argparse.Namespace) -> None:
    if options.format not in FORMATS:
        raise SpecError(f"Unknown --format {options.format!r}.", f"Choose from {', '.join(FORMATS)}.")
    from lsprism.charts.reports import compare
    from lsprism.charts.table import FIGURES, to_csv, to_markdown

    table = compare(options.reports, options.figures.split(",") if options.figures else FIGURES)
    if options.json:
        print_json(show.as_plain(table))
    elif options.format == "table":
        print_table(show.comparison(table))
    else:
        print({"markdown": to_markdown, "csv": to_csv}[options.format](table), end="")


def _spectra_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, SPECTRA)


def _spectra(options: argparse.Namespace) -> None:
    fields = given(options, SPECTRA)
    if "model_id" in fields:
        fields.setdefault("save_path", place_for(fields["model_id"], "spectra.jsonl"))
    spec = asked(SpectraSpec, fields)
    with recorded("spectra", spec) as take:
        from lsprism import measure

        follow(lambda: measure.spectra(spec), take)
    if options.json:
        print_json({"save_path": str(spec.save_path)})
    else:
        say(f"Singular values written to {spec.save_path}.")


SWEEP_COMMAND = Verb(
    "sweep over sparsities: compress, evaluate and recommend one",
    "--model-id demo --sparsities 0.3,0.5",
    _sweep_options,
    _sweep,
    resumable=True,
)
MEASURING = {
    "evaluate": Verb(
        "evaluate a model against its baseline",
        "--model-path output/demo-0.5",
        _evaluate_options,
        _evaluate,
        resumable=True,
    ),
    "benchmark": Verb(
        "compare completions of a model and its baseline on prompt tasks",
        "--model-path output/demo-0.5 --task summarization",
        _benchmark_options,
        _benchmark,
        resumable=True,
    ),
    "sweep": SWEEP_COMMAND,
    "study": replace(SWEEP_COMMAND, hidden=True),  # its name in earlier versions
    "spectra": Verb(
        "singular values of every compressed layer, before and after",
        "--model-path output/demo-0.5",
        _spectra_options,
        _spectra,
    ),
    "compare": Verb(
        "compare reports in one table",
        "output/demo-sweep --format markdown",
        _compare_options,
        _compare,
        usage="REPORT [REPORT ...] [options]",
    ),
}
