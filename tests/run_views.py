"""Plans, runs and reports for the tests of the dashboard."""

from pathlib import Path

from lsprism.records.compression import CompressionReport, LayerReport
from lsprism.records.model_plan import Layer, LayerBudget, LayerPlan, MemoryEstimate, ModelSource, Plan
from lsprism.runs import Run


def layer(block: int, name: str, *, error: float = 0.1, kept: int = 50, rank: int = 0) -> LayerReport:
    return LayerReport(
        name=f"model.layers.{block}.{name}", block=block, rows=10, columns=10, form="sparse", kept=kept, rank=rank,
        stored_bytes=120, dense_bytes=200, error=error,
    )  # fmt: skip


def layers(blocks: int = 2) -> list[LayerReport]:
    return [layer(b, name, error=0.1 * (b + 1)) for b in range(blocks) for name in ("self_attn.q_proj", "mlp.up_proj")]


def report(folder: Path, blocks: int = 2) -> CompressionReport:
    return CompressionReport(
        save_path=folder, model_id="demo", method="wanda", sparsity=0.5, layers=layers(blocks), model_parameters=1000,
        kept_parameters=600, stored_bytes=1300, dense_stored_bytes=2000, seconds=61.0, peak_memory_bytes=7 * 10**8,
        calibration="embedded text", device="cpu", dtype="bfloat16",
    )  # fmt: skip


def plan() -> Plan:
    site = Layer(name="model.layers.0.mlp.up_proj", block=0, rows=10, columns=10, bias=False)
    planned = LayerPlan(
        site=site, budget=LayerBudget(kept=50), form="sparse", kept=50, stored_bytes=120, dense_bytes=200
    )
    return Plan(
        source=ModelSource(model_id="demo", kind="demo", folder=Path("demo"), base_model="demo"),
        method="wanda", sparsity=0.5, allocation="uniform", dtype="bfloat16", device="cpu",
        sites=[planned], left_alone=[],
        model_parameters=1000, kept_parameters=600, stored_bytes=1300, resident_bytes=1300, dense_stored_bytes=2000,
        memory=MemoryEstimate(fixed=100, outside=10, hidden_states=200, block=300, statistics=100, workspace=300),
        disk_bytes=1700,
    )  # fmt: skip


def run(state: str = "done", **more) -> Run:
    settings = {"model_id": "demo", "method": "wanda", "sparsity": 0.5, "calibration": {"samples": 8, "length": 64}}
    fields = {
        "id": "20260101-120000-abcdef", "verb": "compress", "state": state, "created": 1.0, "queued": 1.0,
        "settings": settings, "words": ["--model-id", "demo"],
    }  # fmt: skip
    return Run(**{**fields, **more})
