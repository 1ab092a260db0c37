"""Reports as text: pure functions from a report to rich renderables that fit 80 columns."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from statistics import mean

from rich import box
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lsprism.charts.profile import HEAD, Line, profile
from lsprism.charts.table import DOUBT
from lsprism.charts.table import Table as Comparison
from lsprism.charts.table import comparison as compared
from lsprism.outcomes import EvalReport, StudyReport
from lsprism.reports import CompressionReport, LeftAlone, Memory, Plan, SitePlan, StatsReport
from lsprism.units import duration, rough_duration, size

Groups = dict[tuple[str, int, int, str], list[SitePlan]]  # by name in the block, rows, columns, form


def plan(report: Plan) -> Group:
    head = f"{report.method} at sparsity {report.sparsity:g}, {report.dtype} on {report.device}"
    first = report.sites[0].site
    blocks = first.name.partition(f".{first.block}.")[0]  # 'model.layers'
    count = 1 + max(p.site.block for p in report.sites)
    groups = _alike(report.sites, blocks)
    differ = any(p.kept != group[0].kept for group in groups.values() for p in group)
    means = f"; layers keep different shares (budget {report.budget}), so these are means" if differ else ""
    return Group(
        Text(report.source.model_id, style="bold").append(f"  {head}", style="not bold"),
        Text(f"{count} blocks in {blocks}{means}"),
        _sites(groups, count),
        *(Padding(f"{name} {group[0].note}.", (0, 1)) for (name, *_), group in groups.items() if group[0].note),
        _left_alone(report.left_alone, blocks),
        _totals(report),
        *(Padding(note, (0, 1)) for note in [*report.notes, *_unknown(report.sites)]),
    )


def _unknown(sites: list[SitePlan]) -> Iterable[str]:
    """How the errors that are not known become so."""
    if any(p.error is None and p.budget.pattern is None for p in sites):
        yield (
            "What each layer will lose is known once this model has been compressed to two sparsities near this one,"
            " with the same other settings."
        )


def _alike(sites: list[SitePlan], blocks: str) -> Groups:
    """The sites of one name, shape and form in all blocks."""
    groups: Groups = {}
    for p in sites:
        name = p.site.name.removeprefix(f"{blocks}.{p.site.block}.")
        groups.setdefault((name, p.site.rows, p.site.columns, p.form), []).append(p)
    return groups


def _sites(groups: Groups, blocks: int) -> Table:
    """How often a row occurs is said only where it is not once in each block."""
    counted = any(len(group) != blocks for group in groups.values())
    told = any(p.error for group in groups.values() for p in group)
    names = ["in each block", *[">blocks"] * counted, ">out x in", "form", ">kept", ">rank", ">of dense"]
    table = _columns(*names, *[">expected error"] * told)
    for (name, rows, columns, form), group in groups.items():
        errors = [p.error for p in group if p.error is not None]
        rank = mean(p.budget.rank for p in group)
        table.add_row(
            name,
            *[str(len(group))] * counted,
            f"{rows} x {columns}",
            form.replace("_", "-"),
            f"{mean(p.kept for p in group):,.0f}",
            f"{rank:.0f}" if rank else "",
            f"{mean(p.stored_bytes / p.dense_bytes for p in group):.1%}",
            *[f"{mean(errors):.1%}" if errors else ""] * told,
        )
    return table


def _expected(error: float | None) -> list[tuple[str, str]]:
    return [] if error is None else [("mean relative output error of a layer", f"{error:.1%}")]


def _left_alone(parts: Iterable[LeftAlone], blocks: str) -> Table:
    table = _columns("left alone", ">parameters", "because")
    for part in parts:
        table.add_row(part.name.removeprefix(f"{blocks}."), f"{part.parameters:,}", part.reason)
    return table


def _totals(report: Plan) -> Table:
    return _pairs(
        "expected",
        ("kept parameters", _share(f"{report.kept_parameters:,}", report.kept_parameters, report.model_parameters)),
        ("stored bytes, compressed layers", _bytes(report.layer_stored_bytes, report.layer_dense_bytes)),
        ("stored bytes, whole model", _bytes(report.stored_bytes, report.dense_stored_bytes)),
        ("resident bytes once loaded", size(report.resident_bytes)),
        *([("kernels on this machine", _kernels(report.sites))] if report.sites[0].kernel else []),
        *_expected(report.mean_error),
        ("disk while compressing", size(report.disk_bytes)),
        *_time(report),
        ("peak memory while compressing", size(report.memory.total)),
        *_parts(report.memory),
    )


def _time(report: Plan) -> list[tuple[str, str]]:
    if report.duration is None:
        return []
    about = f"about {rough_duration(report.duration.total)}"
    return [("time on this machine", f"{about}, products computed in {report.compute_dtype}")]


def _kernels(sites: list[SitePlan]) -> str:
    """The one of all sites, or each with the names of its sites."""
    names: dict[str, dict[str, None]] = {}
    for p in sites:
        names.setdefault(p.kernel, {})[p.site.name.rpartition(".")[2]] = None
    return "; ".join(names if len(names) == 1 else (f"{kernel}: {', '.join(of)}" for kernel, of in names.items()))


def _parts(memory: Memory) -> list[tuple[str, str]]:
    return [(f"  {name.replace('_', ' ')}", size(count)) for name, count in memory.parts.items()]


def compression(report: CompressionReport) -> Table:
    error = sum(layer.error for layer in report.layers) / len(report.layers)
    return _pairs(
        str(report.save_path),
        ("kept parameters", _share(f"{report.kept_parameters:,}", report.kept_parameters, report.model_parameters)),
        ("stored bytes, compressed layers", _bytes(report.layer_stored_bytes, report.layer_dense_bytes)),
        ("stored bytes, whole model", _bytes(report.stored_bytes, report.dense_stored_bytes)),
        ("mean relative output error of a layer", f"{error:.1%}"),
        ("calibrated on", report.calibration),
        ("time", f"{duration(report.seconds)} on {report.device}"),
        ("peak memory of the process", size(report.peak_memory_bytes)),
    )


def stats(report: StatsReport) -> Group:
    """One row per site. Sites that are handed the same tensor (q, k, v) have the same numbers."""
    head = f"{report.samples} x {report.length} tokens of {report.calibration}, uncompressed"
    table = _columns(">block", "inputs of", ">width", ">mean |x|", ">max |x|", ">norm", ">outliers", ">dead")
    for site in report.sites:
        table.add_row(
            str(site.block),
            site.name.partition(f".{site.block}.")[2],
            str(site.columns),
            f"{site.mean:.3g}",
            f"{site.max:.3g}",
            f"{site.norm:.3g}",
            f"{site.outlier_share:.1%}",
            str(site.dead),
        )
    note = "norm: mean of ||X_j||_2 over the features j; outliers: features above five times it; dead: always zero"
    return Group(Text(report.model_id, style="bold").append(f"  {head}", style="not bold"), table, Text(note))


def evaluation(report: EvalReport) -> Group:
    notes = [*report.notes, *(note for task in report.tasks for note in task.notes)]
    return comparison(compared([report]), notes, list(profile(report)))


def study(report: StudyReport) -> Group:
    advice = report.advice
    choice = f"Take {advice.choice}: {advice.reason}" if advice.choice else advice.reason
    return Group(comparison(compared(report.reports)), Text(choice, style="bold"), Text(advice.rule))


def comparison(table: Comparison, notes: Iterable[str] = (), lines: Sequence[Line] = ()) -> Group:
    """A row per figure and a column per model, so that several models fit a terminal; below it how it was measured."""
    grid = _columns("", *(f">{row.label}" for row in table.rows))
    for column in table.columns:
        grid.add_row(table.title(column), *(table.cell(row, column) for row in table.rows))
    doubts = [Text(f"{DOUBT} {doubt}", style="yellow") for doubt in table.doubts()]
    protocols = [Text(f"[{number}] {text}") for number, text in enumerate(table.protocols, start=1)]
    return Group(grid, *doubts, *_profile(lines), *map(Text, dict.fromkeys(notes)), *protocols)


def _profile(lines: Sequence[Line]) -> Iterable[Table]:
    """Where more than one length of the prompt was timed; a single one stands in the table above."""
    if len({line.figure.prompt_tokens for line in lines}) > 1:
        grid = _columns(*(f">{name}" if n != 1 else name for n, name in enumerate(HEAD)))
        for line in lines:
            grid.add_row(*line.cells())
        yield grid


def as_plain(table: Comparison) -> dict:
    """The same as plain values: models, each with its figures, their protocols and doubts."""
    return {
        "models": [
            {"model": row.label, **{key: asdict(value) for key, value in row.values.items()}} for row in table.rows
        ]
    }


def _bytes(after: int, before: int) -> str:
    return f"{size(after)} of {size(before)} ({after / before:.1%})"


def _share(shown: str, part: int, whole: int) -> str:
    return f"{shown} of {whole:,} ({part / whole:.1%})"


def _columns(*names: str) -> Table:
    """A table with a line under its head; '>' before a name sets its column to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        right = name.startswith(">")
        # Where it is too wide, the last column gives way.
        table.add_column(name.lstrip(">"), justify="right" if right else "left", no_wrap=name != names[-1])
    return table


def _pairs(title: str, *rows: tuple[str, str]) -> Table:
    """Names and values under a title."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in (title, ""):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table
