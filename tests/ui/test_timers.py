"""Only the tab in sight looks whether something has changed."""

import pytest

from lsprism.runs import RunStore
from lsprism.ui.dashboard import TABS, build_dashboard


def test_at_first_only_the_first_tab_ticks_and_every_tab_has_its_switch(tmp_path):
    page, context = build_dashboard(RunStore(tmp_path))
    assert list(context.timers)[0] == "compress" and set(context.timers) == set(TABS)
    active = {tab for tab, timers in context.timers.items() for timer in timers if timer.active}
    assert active == {"compress"}
    every = [timer for timers in context.timers.values() for timer in timers]
    switches = [fn for fn in page.fns.values() if fn.outputs == every]
    assert len(switches) == len(TABS)
    for name, switch in zip(TABS, switches, strict=True):
        told = [change.active for change in switch.fn()]
        assert told == [tab == name for tab, timers in context.timers.items() for _ in timers]


@pytest.mark.slow
def test_a_tab_that_is_left_asks_no_more(page, dashboard):
    page.goto(dashboard.url)
    page.wait_for_selector("#compress-start")
    asked: list[int] = []
    page.on("request", lambda seen: asked.append(seen.post_data_json["fn_index"]) if "/run/" in seen.url else None)

    def looks() -> set[int]:
        page.wait_for_timeout(2000)
        asked.clear()
        page.wait_for_timeout(4000)
        return set(asked)

    of_compress = looks()
    page.click("#tab-runs-button")
    of_runs = looks()
    page.click("#tab-compress-button")
    assert of_compress and of_runs and not of_compress & of_runs
    assert looks() == of_compress
