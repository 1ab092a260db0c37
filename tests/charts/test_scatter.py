"""The board: a point per model, in its place, as large as it is fast, leading to its run."""

import re

import pytest
from eval_reports import changed, likelihood, report, speed

from lsprism.charts.scatter import Axis, collect_points, render_scatter
from lsprism.records.evaluation import SanityFlag

LINKS = [(report("wanda", 0.5, 24.0), "?run=one"), (report("svd", 0.3, 40.0), "?run=two")]


def circles(svg: str) -> dict[str, tuple[float, float, float]]:
    """Name -> x, y, radius."""
    found = re.findall(r'aria-label="([^:"]+): .*?cx="([\d.]+)" cy="([\d.]+)" r="([\d.]+)"', svg)
    return {name: (float(x), float(y), float(r)) for name, x, y, r in found}


def test_the_baseline_stands_there_once():
    assert sorted(point.label for point in collect_points(LINKS)) == ["dense", "svd 0.3", "wanda 0.5"]


def test_a_model_measured_again_is_as_it_was_last():
    again = (report("wanda", 0.5, 23.0), "?run=later")
    (point,) = [point for point in collect_points([*LINKS, again]) if point.label == "wanda 0.5"]
    assert (point.perplexity, point.link) == (23.0, "?run=later")


def test_without_sizes_or_perplexity_there_is_no_point():
    assert (
        collect_points([(changed(LINKS[0][0], "compressed", likelihood=None, sizes=None), "?run=one")])[0].label
        == "dense"
    )
    assert render_scatter([]) == ""


def test_places_follow_the_figures():
    drawn = circles(render_scatter(collect_points(LINKS)))
    assert drawn["wanda 0.5"][0] < drawn["svd 0.3"][0] < drawn["dense"][0], "smaller stands to the left"
    assert drawn["dense"][1] > drawn["wanda 0.5"][1] > drawn["svd 0.3"][1], "better stands lower"


def test_the_area_is_the_speed():
    slow = changed(report("svd", 0.3, 40.0), "compressed", speeds=[speed("svd", [3.0, 3.0, 3.0])])
    drawn = circles(render_scatter(collect_points([LINKS[0], (slow, "?run=two")])))
    assert drawn["svd 0.3"][2] < drawn["dense"][2] < drawn["wanda 0.5"][2] == pytest.approx(17.0)


def test_every_point_leads_to_its_run():
    assert set(re.findall(r'<a href="([^"]+)"', render_scatter(collect_points(LINKS)))) == {"?run=one", "?run=two"}


def test_what_was_measured_another_way_is_hollow_and_said():
    other = changed(report("svd", 0.3, 40.0), "compressed", likelihood=likelihood(40.0, context=512))
    html = render_scatter(collect_points([LINKS[0], (other, "?run=two")]))
    assert html.count('fill="none"') == 1 and "Hollow points (1)" in html


def test_a_flagged_figure_carries_its_mark():
    flag = SanityFlag(figure="perplexity", side="model", reason="too good to be true")
    html = render_scatter(collect_points([(report(flags=[flag]), "?run=one")]))
    assert "wanda 0.5 (!)" in html and "flagged" in html


def test_names_are_escaped():
    hostile = report("<script>", 0.5)
    assert "<script>" not in render_scatter(collect_points([(hostile, '?run="><b>')]))


def test_perplexities_far_apart_stand_on_a_logarithmic_axis():
    far = [LINKS[0], (report("svd", 0.3, 4000.0), "?run=two")]
    drawn = circles(render_scatter(collect_points(far)))
    near = drawn["dense"][1] - drawn["wanda 0.5"][1]
    assert near > 5, "20 and 24 are still told apart beside 4,000"


@pytest.mark.parametrize(("low", "high"), [(0, 290), (18.3, 66), (0.2, 0.9)])
def test_ticks_are_round_and_inside(low, high):
    ticks = Axis(low, high, 0, 100).compute_ticks()
    assert 3 <= len(ticks) <= 9 and all(low <= tick <= high * 1.0001 for tick in ticks)
