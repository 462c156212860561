"""The rooms: imports run downwards and never in a circle, and nothing hides a module behind its own name."""

import ast
import tomllib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "px_seg"

FLOORS = (
    {"errors", "config", "metrics", "progress", "curves", "wide", "identity", "text"},
    {"files", "devices", "losses", "predictions", "cost", "termination", "extras"},
    {"pruning", "data"},
    {"models", "analysis", "plots", "repair"},
    {"tasks"},
    {"run"},
    {"command_help"},
    {"command_line", "flags"},
    {"transfer", "sweep", "deploy", "inspection"},
    {"report"},
    {"comparison"},
    {"benchmark"},
    {"commands"},
    {"__main__"},
)
"""From the ground up: a room imports from lower floors, and from its own."""


def name_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def imports_of(file: Path) -> set[str]:
    """The modules of the package that a file imports, also inside functions and for types alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else node.module for name in whole}
    return {name for name in found if name in MODULES} - {name_of(file)}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def floor(module: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room(module) in rooms)


def test_every_room_has_its_floor() -> None:
    assert {room(module) for module in MODULES} - {""} == {name for rooms in FLOORS for name in rooms}


@pytest.mark.parametrize("module", [name for name in MODULES if name != "px_seg"])
def test_imports_run_downwards(module: str) -> None:
    upwards = {name for name in imports_of(MODULES[module]) if name != "px_seg" and floor(name) > floor(module)}
    assert upwards == set()
    beside = {
        name for name in imports_of(MODULES[module]) if room(name) != room(module) and floor(name) == floor(module)
    }
    assert beside == set()


def test_no_import_leads_back() -> None:
    """Files of the package, packages' own `__init__` left out: these only pass on what their files define."""
    graph = {
        name: {other for other in imports_of(file) if MODULES[other].name != "__init__.py"}
        for name, file in MODULES.items()
        if file.name != "__init__.py"
    }
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle: {' -> '.join([*path[path.index(module) :], module])}"
        if module not in done:
            for other in graph[module]:
                visit(other, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_pruning_knows_torch_only() -> None:
    """Of the other rooms it takes what has no room: errors, files, a loss and the type of sums."""
    taken = {other for name, file in MODULES.items() if room(name) == "pruning" for other in imports_of(file)}
    assert {room(name) for name in taken} - {"pruning"} == {"errors", "files", "losses", "wide"}
    sources = [file.read_text() for name, file in MODULES.items() if room(name) == "pruning"]
    for library in ("accelerate", "torchvision", "albumentations", "timm", "segmentation_models_pytorch"):
        assert not any(f"import {library}" in text or f"from {library}" in text for text in sources)


def test_no_name_hides_a_module() -> None:
    for name, file in MODULES.items():
        tree = ast.parse(file.read_text())
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert name.rpartition(".")[2] not in defined, f"{name} defines its own name"
        if file.name == "__init__.py":
            given = {
                alias.asname or alias.name for n in tree.body if isinstance(n, ast.ImportFrom) for alias in n.names
            }
            inside = {other.rpartition(".")[2] for other in MODULES if other.rpartition(".")[0] == name}
            assert not (given | defined) & inside, f"{name} has names of its own modules"


def test_the_wheel_has_every_room() -> None:
    settings = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {name for name, file in MODULES.items() if file.name == "__init__.py"}
    assert set(settings["packages"]) == folders | {"px_seg.configs"}
    assert settings["package-dir"] == {"px_seg.configs": "configs"}
