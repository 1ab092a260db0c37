"""Comparisons on problems where one method must win: they detect swapped axes and missing updates."""

import pytest
from matrices import inputs, low_rank_plus_sparse, output_error, random
from test_methods import compressed

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES = [(48, 64), (64, 48), (96, 300)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


@shapes
def test_wanda_beats_magnitude_where_inputs_differ_in_scale(shape):
    weight, x = random(*shape), inputs(shape[1], correlated=False, spread=2)
    assert output_error(weight, compressed("wanda", weight, x), x) < 0.6 * output_error(
        weight, compressed("magnitude", weight, x), x
    )


@shapes
def test_whitened_svd_beats_plain_svd_where_inputs_differ_in_scale(shape):
    weight, x = random(*shape), inputs(shape[1], spread=2)
    assert output_error(weight, compressed("svd", weight, x), x) < 0.6 * output_error(
        weight, compressed("svd-plain", weight, x), x
    )


@shapes
@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "4:8"])
def test_sparsegpt_beats_wanda_where_inputs_are_correlated(shape, pattern):
    weight, x = random(*shape), inputs(shape[1])
    error = {name: output_error(weight, compressed(name, weight, x, pattern=pattern), x) for name in COMPARED}
    assert error["sparsegpt"] < 0.8 * error["wanda"]


@shapes
@pytest.mark.parametrize("name", ["sparsegpt", "hybrid"])
def test_results_generalize_to_held_out_tokens(shape, name):
    weight = random(*shape)
    both = inputs(shape[1], tokens=3000)
    seen, fresh = both[::2], both[1::2]
    error = {method: output_error(weight, compressed(method, weight, seen), fresh) for method in (name, "wanda")}
    assert error[name] < 0.85 * error["wanda"]


@shapes
def test_hybrid_beats_its_parts_at_the_same_parameters_on_low_rank_plus_sparse(shape):
    weight, x = low_rank_plus_sparse(*shape, rank=2, share=0.2), inputs(shape[1], correlated=False)
    error = {name: output_error(weight, compressed(name, weight, x, 0.4), x) for name in (*COMPARED, "svd", "hybrid")}
    assert error["hybrid"] < 0.8 * min(error[name] for name in (*COMPARED, "svd"))


@shapes
def test_hybrid_beats_sparsegpt_where_inputs_are_correlated(shape):
    weight, x = low_rank_plus_sparse(*shape, rank=2, share=0.2), inputs(shape[1])
    assert output_error(weight, compressed("hybrid", weight, x), x) < 0.9 * output_error(
        weight, compressed("sparsegpt", weight, x), x
    )


COMPARED = ("wanda", "sparsegpt")


@shapes
def test_oats_beats_wanda_and_hybrid_beats_oats(shape):
    weight = low_rank_plus_sparse(*shape, rank=2, share=0.2)
    for x, best, worse in (
        (inputs(shape[1], correlated=False), "oats", "wanda"),
        (inputs(shape[1]), "hybrid", "oats"),
    ):
        error = {name: output_error(weight, compressed(name, weight, x, 0.4), x) for name in (best, worse)}
        assert error[best] < 0.8 * error[worse], error
