"""The inference profile of a report: a line per prompt length and model."""

from collections.abc import Iterator
from dataclasses import dataclass

from lsprism.records.evaluation import EvalReport
from lsprism.records.metrics import SpeedComparison, SpeedResult

HEAD = ("prompt", "model", "dtype", "first token (s)", "tok/s", "decode speedup", "peak MB")


@dataclass(frozen=True)
class SpeedRow:
    """One model at one prompt length; the speedup is that of the compressed model over this one."""

    figure: SpeedResult
    label: str
    comparison: SpeedComparison | None

    def format_cells(self) -> tuple[str, ...]:
        """In the order of HEAD."""
        figure, peak, ratio = self.figure, self.figure.peak_memory_bytes, ""
        if (pair := self.comparison) is not None:
            ratio = f"{pair.ratio:.2f}x ({pair.lowest:.2f} to {pair.highest:.2f})"
        return (
            f"{figure.prompt_tokens:,}",
            self.label,
            figure.dtypes,
            f"{figure.first_token_s:.3f}",
            f"{figure.tokens_per_s:.1f}",
            ratio,
            f"{peak / 1e6:.0f}" if peak is not None else "",
        )


def iter_speed_rows(report: EvalReport) -> Iterator[SpeedRow]:
    """For each length the model, then the baseline in its fastest dtype and in its checkpoint's dtype."""
    name = report.baseline.model.label if report.baseline else ""
    for n, own in enumerate(report.compressed.speeds):
        yield SpeedRow(own, report.compressed.model.label, None)
        for pairs in (report.speedups, report.speedups_as_shipped):
            if n < len(pairs):
                yield SpeedRow(pairs[n].baseline, name, pairs[n])
