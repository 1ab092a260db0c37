"""Reports as tables: pure functions from a report to rich renderables that fit 80 columns."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from statistics import mean
from typing import Any

from rich import box
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lsprism.charts.speed_rows import HEAD, SpeedRow, iter_speed_rows
from lsprism.charts.table import FLAG_MARK
from lsprism.charts.table import Table as Comparison
from lsprism.charts.table import build_comparison as compared
from lsprism.records.compression import CompressionReport, StatsReport
from lsprism.records.evaluation import EvalReport, SweepReport
from lsprism.records.model_plan import LayerPlan, MemoryEstimate, Plan, SkippedPart
from lsprism.units import format_duration, format_rough_duration, format_size

PARTS = {
    "fixed": "tokenizer and libraries",
    "outside": "embeddings and output head",
    "hidden_states": "hidden states of the calibration data",
    "block": "one block, dense and compressed",
    "statistics": "calibration statistics of one block",
    "workspace": "workspace",
    "healing": "the whole model during healing",
}
Groups = dict[tuple[str, int, int, str], list[LayerPlan]]  # by name in the block, rows, columns, format


def render_plan(report: Plan) -> Group:
    head = f"{report.method} at sparsity {report.sparsity:g}, {report.dtype} on {report.device}"
    first = report.sites[0].site
    blocks = first.name.partition(f".{first.block}.")[0]  # 'model.layers'
    count = 1 + max(p.site.block for p in report.sites)
    groups = _group_alike(report.sites, blocks)
    differ = any(p.kept != group[0].kept for group in groups.values() for p in group)
    means = f"; means over the blocks, as sparsity differs by layer (allocation {report.allocation})" if differ else ""
    return Group(
        Text(report.source.model_id, style="bold").append(f"  {head}", style="not bold"),
        Text(f"{count} blocks in {blocks}{means}"),
        _build_layer_table(groups, count),
        *(Padding(f"{name} {group[0].note}.", (0, 1)) for (name, *_), group in groups.items() if group[0].note),
        _build_skipped_table(report.left_alone, blocks),
        _build_totals(report),
        *(Padding(note, (0, 1)) for note in [*report.notes, *_explain_unknown(report.sites)]),
    )


def _explain_unknown(sites: list[LayerPlan]) -> Iterable[str]:
    """How to get predicted errors where there are none."""
    if any(p.error is None and p.budget.pattern is None for p in sites):
        yield (
            "Layer errors can be predicted after this model has been compressed to two nearby sparsities with otherwise"
            " the same settings."
        )


def _group_alike(sites: list[LayerPlan], blocks: str) -> Groups:
    """The layers of one name, shape and format in all blocks."""
    groups: Groups = {}
    for p in sites:
        name = p.site.name.removeprefix(f"{blocks}.{p.site.block}.")
        groups.setdefault((name, p.site.rows, p.site.columns, p.form), []).append(p)
    return groups


def _build_layer_table(groups: Groups, blocks: int) -> Table:
    """The column `blocks` is shown only if some row does not occur exactly once per block."""
    counted = any(len(group) != blocks for group in groups.values())
    predicted = any(p.error for group in groups.values() for p in group)
    names = ["layer", *[">blocks"] * counted, ">out x in", "format", ">kept", ">rank", ">size vs dense"]
    table = _make_table(*names, *[">predicted error"] * predicted)
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
            *[f"{mean(errors):.1%}" if errors else ""] * predicted,
        )
    return table


def _format_expected_error(error: float | None) -> list[tuple[str, str]]:
    return [] if error is None else [("mean predicted output error of a layer", f"{error:.1%}")]


def _build_skipped_table(parts: Iterable[SkippedPart], blocks: str) -> Table:
    table = _make_table("not compressed", ">parameters", "reason")
    for part in parts:
        table.add_row(part.name.removeprefix(f"{blocks}."), f"{part.parameters:,}", part.reason)
    return table


def _build_totals(report: Plan) -> Table:
    return _make_pairs(
        "estimate",
        (
            "kept parameters",
            _format_share(f"{report.kept_parameters:,}", report.kept_parameters, report.model_parameters),
        ),
        ("size on disk, compressed layers", _format_size_change(report.layer_stored_bytes, report.layer_dense_bytes)),
        ("size on disk, whole model", _format_size_change(report.stored_bytes, report.dense_stored_bytes)),
        ("memory when loaded", format_size(report.resident_bytes)),
        *([("kernels on this machine", _format_kernels(report.sites))] if report.sites[0].kernel else []),
        *_format_expected_error(report.mean_error),
        ("disk space while compressing", format_size(report.disk_bytes)),
        *_format_time(report),
        ("peak memory while compressing", format_size(report.memory.total)),
        *_list_memory_parts(report.memory),
    )


def _format_time(report: Plan) -> list[tuple[str, str]]:
    if report.duration is None:
        return []
    about = f"about {format_rough_duration(report.duration.total)}"
    return [("time on this machine", f"{about}, matrix products in {report.compute_dtype}")]


def _format_kernels(sites: list[LayerPlan]) -> str:
    """The kernel of all layers, or each kernel with its layers."""
    names: dict[str, dict[str, None]] = {}
    for p in sites:
        names.setdefault(p.kernel, {})[p.site.name.rpartition(".")[2]] = None
    return "; ".join(names if len(names) == 1 else (f"{kernel}: {', '.join(of)}" for kernel, of in names.items()))


def _list_memory_parts(memory: MemoryEstimate) -> list[tuple[str, str]]:
    return [(f"  {PARTS[name]}", format_size(count)) for name, count in memory.parts.items()]


def render_compression(report: CompressionReport) -> Table:
    error = sum(layer.error for layer in report.layers) / len(report.layers)
    return _make_pairs(
        str(report.save_path),
        (
            "kept parameters",
            _format_share(f"{report.kept_parameters:,}", report.kept_parameters, report.model_parameters),
        ),
        ("size on disk, compressed layers", _format_size_change(report.layer_stored_bytes, report.layer_dense_bytes)),
        ("size on disk, whole model", _format_size_change(report.stored_bytes, report.dense_stored_bytes)),
        ("mean relative output error of a layer", f"{error:.1%}"),
        ("calibrated on", report.calibration),
        ("time", f"{format_duration(report.seconds)} on {report.device}"),
        ("peak memory of the process", format_size(report.peak_memory_bytes)),
    )


def render_stats(report: StatsReport) -> Group:
    """One row per layer. Layers with the same input tensor (q, k, v) have the same numbers."""
    head = f"{report.samples} x {report.length} tokens of {report.calibration}, uncompressed model"
    table = _make_table(">block", "layer", ">width", ">mean |x|", ">max |x|", ">norm", ">outliers", ">dead")
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
    note = "norm: mean of ||X_j||_2 over input features j; outliers: features above 5x that mean; dead: always zero"
    return Group(Text(report.model_id, style="bold").append(f"  {head}", style="not bold"), table, Text(note))


def render_evaluation(report: EvalReport) -> Group:
    notes = [*report.notes, *(note for task in report.tasks for note in task.notes)]
    return render_comparison(compared([report]), notes, list(iter_speed_rows(report)))


def render_study(report: SweepReport) -> Group:
    advice = report.advice
    choice = f"{advice.choice} is recommended: {advice.reason}" if advice.choice else advice.reason
    return Group(render_comparison(compared(report.reports)), Text(choice, style="bold"), Text(advice.rule))


def render_comparison(table: Comparison, notes: Iterable[str] = (), lines: Sequence[SpeedRow] = ()) -> Group:
    """A row per metric and a column per model, so that several models fit a terminal; then the protocols."""
    grid = _make_table("", *(f">{row.label}" for row in table.rows))
    for column in table.columns:
        grid.add_row(table.format_title(column), *(table.format_cell(row, column) for row in table.rows))
    doubts = [Text(f"{FLAG_MARK} {doubt}", style="yellow") for doubt in table.list_flags()]
    protocols = [Text(f"[{number}] {text}") for number, text in enumerate(table.protocols, start=1)]
    return Group(grid, *doubts, *_render_profiles(lines), *map(Text, dict.fromkeys(notes)), *protocols)


def _render_profiles(lines: Sequence[SpeedRow]) -> Iterable[Table]:
    """The speed by prompt length, if more than one was timed; a single one is in the table above."""
    if len({line.figure.prompt_tokens for line in lines}) > 1:
        grid = _make_table(*(f">{name}" if n != 1 else name for n, name in enumerate(HEAD)))
        for line in lines:
            grid.add_row(*line.format_cells())
        yield grid


def to_plain_values(table: Comparison) -> dict[str, Any]:
    """The same as plain values: models with their metrics, protocols and warnings."""
    return {
        "models": [
            {"model": row.label, **{key: asdict(value) for key, value in row.values.items()}} for row in table.rows
        ]
    }


def _format_size_change(after: int, before: int) -> str:
    return f"{format_size(after)} of {format_size(before)} ({after / before:.1%})"


def _format_share(shown: str, part: int, whole: int) -> str:
    return f"{shown} of {whole:,} ({part / whole:.1%})"


def _make_table(*names: str) -> Table:
    """A table with a ruled header; '>' before a name aligns its column to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        right = name.startswith(">")
        # If the table is too wide, its last column wraps.
        table.add_column(name.lstrip(">"), justify="right" if right else "left", no_wrap=name != names[-1])
    return table


def _make_pairs(title: str, *rows: tuple[str, str]) -> Table:
    """A table of names and values under a title."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in (title, ""):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table
