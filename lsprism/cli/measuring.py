"""The verbs that measure: evaluate, benchmark, study, spectra, compare."""

import argparse
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
STUDY = options_of(StudySpec)
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
        help=f"{', '.join(TASKS)}, all, cnn_dailymail, xsum, samsum, or a .jsonl",
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
    say(f"The page: {spec.save_path / 'report.html'}")


def _set_save_path(fields: dict[str, Any], name: str) -> None:
    """Where nothing else was said: output/MODEL-NAME."""
    if "model_id" in fields:
        fields.setdefault("save_path", place_for(fields["model_id"], name))


def _study_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, STUDY)
    config_option(parser)


def _study(options: argparse.Namespace) -> None:
    fields = given(options, STUDY)
    _set_save_path(fields, "study")
    spec = asked(StudySpec, fields)
    with recorded("study", spec) as take:
        from lsprism import measure

        report = follow(lambda: measure.studying(spec), take)
    answer(options, report, show.study)
    say(f"The page: {spec.save_path / 'study.html'}")


def _compare_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reports", nargs="+", metavar="REPORT", help="report.json, study.json, or a folder with one")
    parser.add_argument("--figures", metavar="KEYS", help="the columns, such as kept,perplexity,speedup (default all)")
    parser.add_argument("--format", metavar="{" + ",".join(FORMATS) + "}", default="table", help="default table")


def _compare(options: argparse.Namespace) -> None:
    if options.format not in FORMATS:
        raise SpecError(f"--format {options.format!r} is unknown.", f"Choose one of {', '.join(FORMATS)}.")
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
        say(f"The singular values are in {spec.save_path}.")


MEASURING = {
    "evaluate": Verb(
        "measure a model beside its baseline: size, perplexity, agreement, text, speed",
        "--model-path output/demo-0.5",
        _evaluate_options,
        _evaluate,
        resumable=True,
    ),
    "benchmark": Verb(
        "compare the answers of a model and its baseline to prompts",
        "--model-path output/demo-0.5 --task summarization",
        _benchmark_options,
        _benchmark,
        resumable=True,
    ),
    "study": Verb(
        "compress to several sparsities, measure each, compare and advise",
        "--model-id demo --sparsities 0.3,0.5",
        _study_options,
        _study,
        resumable=True,
    ),
    "spectra": Verb(
        "singular values of every compressed matrix, before and after",
        "--model-path output/demo-0.5",
        _spectra_options,
        _spectra,
    ),
    "compare": Verb(
        "one table of any reports",
        "output/demo-study --format markdown",
        _compare_options,
        _compare,
    ),
}
