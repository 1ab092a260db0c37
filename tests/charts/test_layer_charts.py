"""Charts of layers: the numbers in them are those of the report."""

import csv

import pytest
from run_views import layer, layers

from lsprism.charts.layer_charts import METRICS, build_grid, get_projection, plot_block_bars, plot_heat_map, to_csv


def test_the_grid_has_a_row_per_projection_and_a_hole_where_no_layer_is():
    table = build_grid(
        [layer(0, "mlp.up_proj", error=0.1), layer(2, "mlp.up_proj", error=0.3), layer(2, "q", error=0.2)], "error"
    )
    assert table.projections == ["mlp.up_proj", "q"] and table.blocks == 3
    assert table.values == [[0.1, None, 0.3], [None, None, 0.2]]


@pytest.mark.parametrize("measure", list(METRICS))
def test_every_measure_can_be_drawn(measure):
    heat, bars = plot_heat_map(layers(3), measure), plot_block_bars(layers(3), measure)
    value = METRICS[measure].value
    assert heat.data[0].z[0][1] == value(layers(3)[2])
    assert len(bars.data[0].x) == 3


def test_bars_weigh_layers_by_their_size_and_add_up_bytes():
    large = layer(0, "a", error=0.4).model_copy(update={"rows": 30})
    small = layer(0, "b", error=0.0)
    assert plot_block_bars([large, small], "error").data[0].y[0] == pytest.approx(0.3)
    assert plot_block_bars([large, small], "stored").data[0].y[0] == 240


def test_the_name_of_a_projection_is_what_stands_after_the_block():
    assert get_projection(layer(11, "self_attn.q_proj")) == "self_attn.q_proj"


def test_csv_holds_every_layer():
    rows = list(csv.DictReader(to_csv(layers(2)).splitlines()))
    assert len(rows) == 4 and float(rows[2]["error"]) == 0.2 and float(rows[0]["sparsity"]) == 0.5


def test_no_layers_make_an_empty_chart():
    assert len(plot_block_bars([], "error").data[0].x) == 0 and build_grid([], "error").blocks == 0
