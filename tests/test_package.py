"""The package: what it requires, what an optional part says where it is missing, and that a wheel is whole."""

import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import lsprism
from lsprism import extras
from lsprism.cli.main import main
from lsprism.errors import RequestError

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OPTIONAL = PROJECT["optional-dependencies"]


def requirements(path: str) -> set[str]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / path).read_text(encoding="utf-8").splitlines())
    return {line for line in lines if line and not line.startswith("-r")}


def test_requirements_and_the_package_agree():
    parts = [PROJECT["dependencies"], *(OPTIONAL[name] for name in ("dashboard", "eval", "kmif"))]
    assert requirements("requirements.txt") == {line for part in parts for line in part}
    assert set(OPTIONAL["zero-shot"]) <= requirements("tests/requirements.txt")
    assert OPTIONAL["all"] == [f"lsprism[{','.join(name for name in OPTIONAL if name != 'all')}]"]


def test_the_modules_of_an_extra_are_those_of_its_packages():
    modules = importlib.metadata.packages_distributions()
    for extra, names in extras.EXTRAS.items():
        wanted = {re.match(r"[\w-]+", line)[0] for line in OPTIONAL[extra]}
        assert {modules[name][0].lower().replace("_", "-") for name in names} == wanted, extra


def test_without_its_packages_a_part_names_the_command_that_installs_them(tmp_path):
    """In a process of its own, in which the modules cannot be found."""
    code = """
import importlib.abc, sys
module, function, *arguments = sys.argv[1:]
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == module:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
import lsprism
try:
    getattr(lsprism, function)(*arguments)
except lsprism.RequestError as error:
    print(error)
"""
    cases = {
        "dashboard": ("gradio", "dashboard"),
        "eval": ("evaluate", "evaluate", "demo"),
        "eval ": ("plotly", "benchmark", "demo"),
    }
    for extra, words in cases.items():
        environment = {**os.environ, "LSPRISM_STATE": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert re.fullmatch(
            rf'The Python package {words[0]} is not installed. Install it with: pip install .*\[{extra.strip()}\]"\n',
            done.stdout,
        ), done.stdout + done.stderr


def test_an_allocation_that_needs_an_extra_is_refused_before_any_work(monkeypatch, tiny_folder, tmp_path):
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "sklearn" else True)
    with pytest.raises(RequestError, match=r"sklearn is not installed.*\[kmif\]"):
        lsprism.compress(tiny_folder, tmp_path / "out", allocation="kmif")
    assert not list(tmp_path.iterdir())


def test_an_installed_package_is_extended_by_its_name(monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    monkeypatch.setattr(extras, "distribution", lambda name: name)
    with pytest.raises(RequestError, match=r'pip install "lsprism\[dashboard\]"$'):
        extras.check_extra("dashboard")


def test_other_modules_that_are_missing_are_no_extra():
    with pytest.raises(ModuleNotFoundError), extras.translate_import_errors():
        import no_such_module  # noqa: F401


def test_the_command_opens_the_dashboard_with_the_options_of_app_py(monkeypatch, tmp_path, capsys):
    opened = []
    monkeypatch.setattr("lsprism.ui.serve._run_server", opened.append)
    assert main(["dashboard", "--port", "7999", "--state-dir", str(tmp_path), "--open"]) == 0
    lsprism.dashboard(port=7999, state_dir=tmp_path, open=True)
    for options in opened:
        assert (options.host, options.port, options.state_dir, options.open) == ("127.0.0.1", 7999, str(tmp_path), True)
    assert len(opened) == 2
    monkeypatch.undo()
    assert main(["dashboard", "--host", "0.0.0.0"]) == 2
    assert "requires --auth" in capsys.readouterr().err


def test_ctrl_c_closes_the_dashboard_and_is_no_error(monkeypatch, capsys):
    monkeypatch.setattr("lsprism.ui.serve._run_server", lambda options: signal.raise_signal(signal.SIGINT))
    before = signal.getsignal(signal.SIGINT)
    assert main(["dashboard"]) == 0
    assert "Dashboard closed." in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "-w", str(folder), str(ROOT)], check=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The bin folder of an environment that holds the wheel, and sees what this interpreter has besides."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    python = folder / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel], check=True
    )
    (site,) = (folder / "lib").glob("python*/site-packages")
    (site / "others.pth").write_text("\n".join({sysconfig.get_path(name) for name in ("purelib", "platlib")}))
    return folder / "bin"


def out_of(command: list[object], folder: Path) -> str:
    """What a command prints in another folder, with nothing of the checkout in its environment."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_its_assets(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = {path for path in (ROOT / "lsprism").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assets = {path for path in (ROOT / "assets").iterdir() if path.is_file()} | set((ROOT / "assets/tasks").iterdir())
    wanted = {path.relative_to(ROOT).as_posix() for path in package}
    wanted |= {f"lsprism/{path.relative_to(ROOT).as_posix()}" for path in assets}
    assert names == wanted
    assert "lsprism/py.typed" in names


@pytest.mark.slow
def test_the_installed_package_works_in_another_folder(installed, tiny_folder, text_file, tmp_path):
    artifact = tmp_path / "artifact"
    lsprism.compress(
        tiny_folder, artifact, method="magnitude", calibration={"source": str(text_file), "samples": 2, "length": 16}
    )
    plan = json.loads(out_of([installed / "lsprism", "inspect", "--model-id", "demo", "--json"], tmp_path))
    assert plan["source"]["kind"] == "demo" and len(plan["sites"]) == 210
    code = f"""
import lsprism
from lsprism.calibration.corpus import read_text
from lsprism.evaluation.tasks import load_task
from lsprism.packed.kernels.build import SOURCES
from lsprism.ui.dashboard import get_settings
model = lsprism.load({str(artifact)!r})
assert lsprism.generate(model, "the river", greedy=True, max_new_tokens=3).timing.tokens
assert read_text("embedded").text and load_task("logic").prompts
files = [*SOURCES, *get_settings("127.0.0.1", 1)["css_paths"], get_settings("127.0.0.1", 1)["favicon_path"]]
assert all(path.is_file() for path in files)
print(*files, lsprism.__file__, sep="\\n")
"""
    for path in out_of([installed / "python", "-c", code], tmp_path).splitlines():
        assert Path(path).is_relative_to(installed.parent)
