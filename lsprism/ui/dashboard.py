"""The page: header, tabs and theme; and how it is served."""

from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from lsprism.errors import LSPrismError
from lsprism.paths import ASSETS
from lsprism.runs import RunStore
from lsprism.ui import chat_tab, compress_tab, endpoints, evaluate_tab, layers_tab
from lsprism.ui import runs_tab as runs_tab
from lsprism.ui.context import Context
from lsprism.ui.gradio_private import LAUNCH
from lsprism.ui.run_views import select_first_run
from lsprism.ui.security import Guard, list_hosts
from lsprism.ui.texts import common as texts
from lsprism.ui.theme import make_theme

KEPT_S = (3600, 86400)  # how often temporary files are checked, and how old they may get
TABS = {
    "compress": compress_tab.build,
    "layers": layers_tab.build,
    "evaluate": evaluate_tab.build,
    "chat": chat_tab.build,
    "runs": runs_tab.build,
}
TOGGLE = "document.body.classList.toggle('dark')"


def build_dashboard(runs: RunStore) -> tuple[gr.Blocks, Context]:
    """The whole page, not yet served."""
    with gr.Blocks(title=texts.NAME, analytics_enabled=False, delete_cache=KEPT_S, fill_width=True) as page:
        endpoints.register_api(runs)  # first, so that its endpoints get their names
        gr.HTML(_render_head(), elem_id="head")
        opened = gr.State("")
        talk = gr.BrowserState("", storage_key="lsprism-chat")  # readable as long as this dashboard runs
        with gr.Tabs(elem_id="tabs") as tabs:
            context = Context(runs, page, tabs, opened, talk)
            shown = {}
            for name, build in TABS.items():
                with gr.Tab(texts.TABS[name], id=name, elem_id=f"tab-{name}", render_children=True) as shown[name]:
                    build(context)
        for name, tab in shown.items():
            _setup_timers(name, tab, context.timers)
        _load(page, runs, opened, tabs)
    return page, context


def _setup_timers(name: str, tab: gr.Tab, timers: dict[str, list[gr.Timer]]) -> None:
    """Only the timers of the visible tab tick."""
    of = {timer: tab_name for tab_name, found in timers.items() for timer in found}

    def update_timers() -> list[gr.Timer]:
        return [gr.Timer(active=tab_name == name) for tab_name in of.values()]

    tab.select(update_timers, None, list(of), queue=False, show_progress="hidden", api_visibility="private")


def _load(page: gr.Blocks, runs: RunStore, opened: gr.State, tabs: gr.Tabs) -> None:
    def load_page(request: gr.Request) -> tuple[str, Any]:
        return select_first_view(runs, dict(request.query_params))

    # In the queue: outside of it gradio does not notify the listeners of a state.
    page.load(load_page, None, [opened, tabs], show_progress="hidden", api_visibility="private")


def select_first_view(runs: RunStore, query: dict[str, str]) -> tuple[str, Any]:
    """The run and the tab that a newly opened page shows; ?run=ID opens that run."""
    try:
        run = runs.get(query.get("run", ""))
    except LSPrismError:
        return select_first_run(runs), gr.skip()
    return run.id, gr.Tabs(selected="compress" if run.is_active and run.verb == "compress" else "runs")


def _render_head() -> str:
    logo = (ASSETS / "logo.svg").read_text(encoding="utf-8")
    return (
        f'<header>{logo}<div><h1>{texts.NAME}</h1><p class="quiet">{texts.TAGLINE}</p></div>'
        f'<button class="plain" onclick="{TOGGLE}" title="{texts.DARK_MODE}" aria-label="{texts.DARK_MODE}">◐</button>'
        "</header>"
    )


def launch(home: Path, host: str, port: int, *, auth: tuple[str, str] | None = None, browser: bool = False) -> None:
    """Serve the page until Ctrl-C."""
    page, context = build_dashboard(RunStore(home))
    try:
        context.planner.start()
        page.launch(**get_settings(host, port, auth), inbrowser=browser, **LAUNCH)
    finally:
        context.planner.close()


def get_settings(host: str, port: int, auth: tuple[str, str] | None = None) -> dict[str, Any]:
    """Arguments of `launch`: no share link, no analytics, no history in the browser, no other files."""
    return {
        "server_name": host,
        "server_port": port,
        "auth": auth,
        "share": False,
        "quiet": True,
        "ssr_mode": False,
        "strict_cors": True,
        "run_history": False,
        "enable_monitoring": False,
        "mcp_server": False,
        "pwa": False,
        "allowed_paths": [],
        "max_file_size": "4mb",
        "show_error": True,
        "footer_links": ["api", "settings"],
        "app_kwargs": {"middleware": [Middleware(Guard, hosts=list_hosts(host))]},
        "theme": make_theme(),
        "css_paths": [ASSETS / f"{name}.css" for name in ("dashboard", "evaluate", "chat")],
        "favicon_path": ASSETS / "logo.svg",
    }
