"""The page stands alone, shows every figure, and runs nothing that a model wrote."""

import re

from eval_reports import report, task

from lsprism.charts.comparison import iter_charts
from lsprism.charts.html_report import render_page
from lsprism.charts.table import build_comparison
from lsprism.records.evaluation import Recommendation, SanityFlag

EVIL = "</pre><script>alert('x')</script> & <img src=x onerror=alert(1)>"
FLAG = SanityFlag(figure="perplexity", side="model", reason="below 2")


def shown(html: str) -> str:
    """Without scripts and styles."""
    return re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.DOTALL)


def test_it_needs_no_network():
    html = render_page("A study", [report()])
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", html)
    assert "Plotly" in html


def test_every_protocol_is_on_it():
    html = shown(render_page("A study", [report()]))
    for protocol in build_comparison([report()]).protocols:
        assert protocol.replace("'", "&#x27;").replace(">", "&gt;") in html


def test_what_a_model_wrote_is_shown_as_text():
    html = shown(
        render_page(
            EVIL, [report(name=EVIL, tasks=[task(0.5, EVIL)])], Recommendation(rule=EVIL, choice=EVIL, reason=EVIL)
        )
    )
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html


def test_labels_cannot_end_the_script_of_a_chart():
    html = render_page("A study", [report(name=EVIL)])
    assert "<script>alert" not in html


def test_a_doubt_is_said_beside_the_table():
    html = shown(render_page("A study", [report(perplexity=1.1, flags=[FLAG])]))
    assert "1.10 " in html and "wanda 0.5, perplexity: below 2." in html


def test_an_empty_answer_is_named():
    assert "empty output" in shown(render_page("A study", [report(tasks=[task(0.0, " ")])]))


def test_the_advice_comes_with_its_rule():
    html = shown(
        render_page("A study", [report()], Recommendation(rule="The rule.", choice="wanda 0.5", reason="Because."))
    )
    assert "Recommended: wanda 0.5. Because." in html and "The rule." in html


def test_charts_show_what_there_is_and_hatch_what_is_doubted():
    titles = [figure.layout.title.text for figure in iter_charts(build_comparison([report()]))]
    assert titles[0].startswith("Size and quality")
    assert {"Perplexity", "KL", "Tok/s", "Speedup", "Text similarity to the baseline"} <= set(titles)
    bare = report(baseline=None, agreement=None, speedups=[], tasks=[])
    assert [figure.layout.title.text for figure in iter_charts(build_comparison([bare]))] == [
        "Perplexity",
        "Stored MB",
        "Tok/s",
    ]
    figures = iter_charts(build_comparison([report(flags=[FLAG])]))
    (chart,) = [figure for figure in figures if figure.layout.title.text == "Perplexity"]
    assert [bar.marker.pattern.shape for bar in chart.data] == [None, "/"]
