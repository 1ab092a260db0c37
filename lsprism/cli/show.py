"""Reports as text: pure functions from a report to rich renderables."""

from collections.abc import Iterable

from rich.console import Group
from rich.table import Table

from lsprism.reports import CompressionReport, LeftAlone, Plan, SitePlan


def size(count: float) -> str:
    """Bytes in the unit that reads best; 1 MB = 10^6 bytes, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1000
    raise AssertionError


def plan(report: Plan) -> Group:
    head = (
        f"[bold]{report.source.model_id}[/bold]: {report.method} at sparsity {report.sparsity:g}, {report.dtype}, "
        f"{report.device}"
    )
    return Group(head, _sites(report.sites), _left_alone(report.left_alone), _totals(report))


def _sites(sites: list[SitePlan]) -> Table:
    table = Table("site", "blocks", "out x in", "form", "kept", "rank", "stored", "of dense")
    for name, group in _same(sites):
        first = group[0]
        table.add_row(
            name,
            str(len(group)),
            f"{first.site.rows} x {first.site.columns}",
            first.form.replace("_", "-"),
            f"{first.kept:,}",
            str(first.budget.rank or ""),
            size(sum(p.stored_bytes for p in group)),
            f"{first.stored_bytes / first.dense_bytes:.1%}",
        )
    for note in dict.fromkeys(p.note for p in sites if p.note):
        table.caption = f"{table.caption or ''}{note}\n"
    return table


def _same(sites: list[SitePlan]) -> list[tuple[str, list[SitePlan]]]:
    """Sites of one name and one fate in all blocks, in one row."""
    rows: dict[tuple, list[SitePlan]] = {}
    for p in sites:
        name = p.site.name.replace(f".{p.site.block}.", ".*.", 1)
        rows.setdefault((name, p.site.rows, p.site.columns, p.form, p.kept, p.budget.rank), []).append(p)
    return [(key[0], group) for key, group in rows.items()]


def _left_alone(parts: Iterable[LeftAlone]) -> Table:
    table = Table("left alone", "parameters", "reason")
    for part in parts:
        table.add_row(part.name, f"{part.parameters:,}", part.reason)
    return table


def _totals(report: Plan) -> Table:
    memory = report.memory
    table = Table("expected", "")
    kept = report.kept_parameters / report.model_parameters
    stored = report.stored_bytes / report.dense_stored_bytes
    table.add_row("kept parameters", f"{report.kept_parameters:,} of {report.model_parameters:,} ({kept:.1%})")
    table.add_row("stored bytes", f"{size(report.stored_bytes)} of {size(report.dense_stored_bytes)} ({stored:.1%})")
    table.add_row("resident bytes", size(report.resident_bytes))
    table.add_row(
        "peak memory while compressing",
        f"{size(memory.total)} = hidden states {size(memory.hidden_states)} + block {size(memory.block)} + statistics "
        f"{size(memory.statistics)} + workspace {size(memory.workspace)} + other {size(memory.other)}",
    )
    table.add_row("disk while compressing", size(report.disk_bytes))
    return table


def compression(report: CompressionReport) -> Table:
    table = Table(f"{report.save_path}", "", title_justify="left")
    kept = report.kept_parameters / report.model_parameters
    error = sum(layer.error for layer in report.layers) / len(report.layers)
    table.add_row("kept parameters", f"{report.kept_parameters:,} of {report.model_parameters:,} ({kept:.1%})")
    for name, after, before in (
        ("stored bytes, compressed layers", report.layer_stored_bytes, report.layer_dense_bytes),
        ("stored bytes, whole model", report.stored_bytes, report.dense_stored_bytes),
    ):
        table.add_row(name, f"{size(after)} of {size(before)} ({after / before:.1%})")
    table.add_row("mean relative output error of a layer", f"{error:.1%}")
    table.add_row("calibration", f"{report.calibration}")
    table.add_row("time", f"{report.seconds:.0f} s on {report.device}")
    table.add_row("peak memory of the process", size(report.peak_memory_bytes))
    return table
