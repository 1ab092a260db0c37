"""What a plan says of layers that are alike in all blocks, and of the errors to be expected."""

import pytest
from rich.console import Console

from lsprism.cli import tables
from lsprism.records.model_plan import Layer, LayerBudget, LayerPlan, MemoryEstimate, ModelSource, Plan


def plan(
    errors: list[float | None],
    pattern: tuple[int, int] | None = None,
    notes: list[str] | None = None,
    kept: tuple[int, ...] = (100, 100),
) -> Plan:
    sites = [
        LayerPlan(
            site=Layer(name=f"layers.{n}.q", block=n, rows=20, columns=10, bias=False),
            budget=LayerBudget(kept=kept[n], pattern=pattern),
            form="sparse",
            kept=kept[n],
            stored_bytes=240,
            dense_bytes=400,
            error=error,
        )
        for n, error in enumerate(errors)
    ]
    counts = dict.fromkeys(("fixed", "outside", "hidden_states", "block", "statistics", "workspace"), 1)
    totals = ("model_parameters", "kept_parameters", "stored_bytes", "resident_bytes", "dense_stored_bytes")
    return Plan(
        source=ModelSource(model_id="m", kind="folder", folder="m", base_model="m"),
        method="wanda",
        sparsity=0.5,
        allocation="owl",
        dtype="bfloat16",
        device="cpu",
        sites=sites,
        left_alone=[],
        memory=MemoryEstimate(**counts),
        disk_bytes=1,
        notes=notes or [],
        **dict.fromkeys(totals, 1000),
    )


def said(report: Plan) -> str:
    console = Console(width=80, file=None)
    with console.capture() as captured:
        console.print(tables.render_plan(report))
    return " ".join(captured.get().split())


def test_known_errors_stand_in_a_column_and_their_mean_among_the_totals():
    text = said(plan([0.1, 0.2]))
    assert "predicted error" in text and "mean predicted output error of a layer 15.0%" in text
    assert "two nearby sparsities" not in text


@pytest.mark.parametrize("errors", [[None, None], [0.1, None]])
def test_where_an_error_is_not_known_one_sentence_says_how_to_get_it(errors):
    text = said(plan(errors, notes=["Shown alike."]))
    assert text.count("two nearby sparsities") == 1 and "Shown alike." in text
    assert "mean predicted output error" not in text
    assert ("predicted error" in text) == (errors[0] is not None)


def test_of_a_pattern_no_error_is_promised():
    assert "two nearby sparsities" not in said(plan([None], pattern=(2, 4)))


def test_layers_with_shares_of_their_own_are_one_row_of_means_and_the_budget_is_named():
    text = said(plan([0.1, 0.2], kept=(60, 141)))
    assert text.count("20 x 10") == 1 and " 100 " in text  # 100.5, to the even one
    assert "means over the blocks, as sparsity differs by layer (allocation owl)" in text
    assert "allocation owl" not in said(plan([0.1, 0.2]))


@pytest.mark.parametrize(("healing", "total"), [(0, 19), (100, 104)])
def test_the_parts_of_the_memory_are_those_that_its_total_is_reckoned_from(healing, total):
    memory = MemoryEstimate(
        fixed=1, outside=15, hidden_states=3, block=4, statistics=5, workspace=6, healing=healing, embeddings=9
    )
    assert memory.total == total
    shown = {"fixed": 1, "outside": 15, "hidden_states": 3, "block": 4, "statistics": 5, "workspace": 6}
    assert memory.parts == shown | ({"healing": healing} if healing else {})
