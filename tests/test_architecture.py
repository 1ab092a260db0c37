"""Architecture: import layers, file sizes, typed functions, and fast imports without torch."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = """old_names | errors machine units | extensions |
            metric_declarations method_catalog rule_catalog | json_files records paths | specs
            events extras arguments | charts settings | packed | methods | allocation | models |
            generation | calibration | artifact | engine evaluation | api hf runs | evaluation_api chat
            | commands | ui | cli"""
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS.split("|")) for room in rooms.split()}
FILES = sorted((ROOT / "lsprism").rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def room(path: Path) -> str:
    return path.relative_to(ROOT / "lsprism").parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "lsprism" and "." in name}


def test_imports_go_to_lower_floors():
    wrong = []
    for path in FILES:
        here = room(path)
        if here.startswith("__"):  # __init__ and __main__ may import everything
            continue
        assert here in FLOOR, f"{here} is not in FLOORS"
        there = {name.split(".")[1] for name in imported_modules(path)} & FLOOR.keys() - {here}
        there -= {"hf"} if here == "api" else set()
        wrong += [f"{path} imports {other}" for other in there if FLOOR[other] >= FLOOR[here]]
    assert not wrong, "imports from the same or a higher floor"


def test_there_are_no_import_cycles():
    graph: dict[str, set[str]] = {}
    names = {"lsprism." + ".".join(p.relative_to(ROOT / "lsprism").with_suffix("").parts): p for p in FILES}
    for name, path in names.items():
        graph[name] = {m for full in imported_modules(path) for m in (full, full.rpartition(".")[0]) if m in names}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for other in graph[name]:
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_files_fit_on_a_few_screens():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {path: count for path, count in lines.items() if count > 300}


@pytest.mark.parametrize(
    ("what", "where"),
    [('"ls_prism"', "models/other_formats.py"), ("user_cache_path(", "paths.py"), ('"LSPRISM_TRAITS"', "paths.py")],
)
def test_the_format_and_the_cache_are_named_in_one_place(what: str, where: str):
    found = [path for path in FILES if what in path.read_text(encoding="utf-8")]
    assert found == [ROOT / "lsprism" / where]


def test_print_is_used_only_in_the_command_line():
    prints = []
    for path in FILES:
        calls = [] if room(path) == "cli" else [node for node in ast.walk(TREES[path]) if isinstance(node, ast.Call)]
        prints += [f"{path}:{n.lineno}" for n in calls if isinstance(n.func, ast.Name) and n.func.id == "print"]
    assert not prints


def test_public_functions_are_typed():
    bare = []
    for path in FILES:
        for node in ast.walk(TREES[path]):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                untyped = any(a.annotation is None and a.arg not in ("self", "cls") for a in arguments)
                if untyped or node.returns is None:
                    bare.append(f"{path}:{node.lineno} {node.name}")
    assert not bare


@pytest.mark.parametrize(
    "module",
    [
        "lsprism",
        "lsprism.specs",
        "lsprism.events",
        "lsprism.charts.report_files",
        "lsprism.runs",
        "lsprism.chat",
        "lsprism.cli",
    ],
)
def test_light_modules_do_not_import_torch(module: str):
    code = f"import {module}, sys; sys.exit(bool({{'torch', 'transformers', 'gradio'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_specs_list_all_methods_and_allocation_rules():
    from lsprism.allocation import RULES
    from lsprism.method_catalog import list_method_names
    from lsprism.methods import METHODS
    from lsprism.rule_catalog import list_rule_names

    assert list(METHODS) == list_method_names()
    assert list(RULES) == list_rule_names()


def test_the_map_names_every_part_of_the_package_in_the_order_of_imports():
    text = (ROOT / "lsprism/README.md").read_text(encoding="utf-8")
    tree = text.partition("<!-- tree -->")[2].partition("<!-- end -->")[0]
    named = [line.split()[0] for line in tree.splitlines() if line.startswith("    ")]
    assert not [name for name in named if not (ROOT / name).exists()]
    rooms = [name.split("/")[1].removesuffix(".py") for name in named if name.startswith("lsprism/")]
    assert set(rooms) == FLOOR.keys()
    assert [FLOOR[name] for name in rooms] == sorted(FLOOR.values())


def test_every_file_and_every_public_class_has_a_name_of_its_own():
    files = Counter(path.name for path in FILES if path.name != "__init__.py")
    classes = Counter(
        node.name
        for tree in TREES.values()
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert not [name for name, count in (files + classes).items() if count > 1]
