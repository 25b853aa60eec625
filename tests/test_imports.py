"""The order of the folders, proved from the imports: a file imports its own folder and those before it.

Imports inside functions count as well: they are lazy, not exempt. And what `import sharpzo_mlx` and the
command line's help may load is looked at in fresh interpreters."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "sharpzo_mlx"
# lowest first, as docs/how/architecture.md shows it; every entry is a folder or a file of the package's top level
ORDER = (
    *("errors", "options", "files", "reading", "rng"),
    *("runtime", "images", "clip", "datasets", "features", "prompts", "objective", "optimisers"),
    *("config", "presets"),
    *("heads", "runs", "hub", "tuning", "evaluation", "sorting", "adding", "review", "report", "comparison"),
    *("cluster", "exporting", "serving"),
    *("", "demo", "doctor", "convert", "sharing", "cli"),  # "" is the package's own __init__
)


def module_files() -> dict[str, Path]:
    """Every module of the package by its name below sharpzo_mlx ('' is the package itself)."""
    found = {}
    for prefix, folder in (("", ROOT / PACKAGE), ("cli", ROOT / "cli"), ("convert", ROOT / "convert")):
        for path in sorted(folder.rglob("*.py")):  # does not enter the two links
            parts = (prefix, *path.relative_to(folder).with_suffix("").parts)
            found[".".join(part for part in parts if part and part != "__init__")] = path
    return found


MODULES = module_files()


def imported(name: str, path: Path) -> set[str]:
    """The modules of ours that a file imports, wherever in it, by their names below the package."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            base = [PACKAGE, *parents] if node.level else []
            source = ".".join(part for part in (*base, node.module or "") if part)
            found |= {f"{source}.{alias.name}" for alias in node.names}
    return {module for module in map(_own, found) if module is not None} - {name}


def _own(dotted: str) -> str | None:
    """The module of ours that a dotted name lies in (the name may end in a function or class), or None."""
    parts = dotted.split(".")
    if parts[0] != PACKAGE:
        return None
    for length in range(len(parts), 0, -1):
        if (name := ".".join(parts[1:length])) in MODULES:
            return name
    return None


def place(name: str) -> int:
    """The position in ORDER of the folder, or the file of the top level, that a module belongs to."""
    return ORDER.index(name.split(".")[0])


@pytest.mark.parametrize("name", list(MODULES))
def test_imports_follow_the_order(name: str) -> None:
    against = {other for other in imported(name, MODULES[name]) if other and place(other) > place(name)}
    assert against == set(), f"{name} imports what stands after its folder"


def test_every_folder_has_its_place() -> None:
    """Nothing in ORDER is made up, and nothing of the package is left out."""
    assert {name.split(".")[0] for name in MODULES} == set(ORDER)
    entries = [entry for entry in (ROOT / PACKAGE).iterdir() if entry.is_file() and entry.suffix == ".py"]
    assert len(entries) <= 8


def test_no_circles() -> None:
    """Within a floor too: no module imports itself by way of others."""
    # a package's __init__ stands before its modules, so the edge to a parent is not an import of its content
    graph = {name: imported(name, path) - _parents(name) for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' -> '.join([*path, name])}"
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def _parents(name: str) -> set[str]:
    parts = name.split(".")
    return {".".join(parts[:length]) for length in range(len(parts))}


def test_optimisers_know_vectors_only() -> None:
    """No CLIP, no images, no files below optimisers/."""
    allowed = {"errors", "options", "rng"}
    for name, path in MODULES.items():
        if name.startswith("optimisers"):
            foreign = {other for other in imported(name, path) if not other.startswith("optimisers")}
            assert foreign <= allowed, name


def test_the_reader_of_imports_sees_all_kinds() -> None:
    """The proof is worth what `imported` finds: absolute, relative, by name, and inside functions."""
    found = imported("cli.main", MODULES["cli.main"])
    assert {"runtime.startup", "errors"} <= found
    lazy = imported("cli.evaluate", MODULES["cli.evaluate"])
    assert {"clip.handle", "evaluation.folders", "runs.run", "cli.wording"} <= lazy


HEAVY = (
    "torch",
    "transformers",
    "huggingface_hub",
    "rich",
    "PIL",
    "cma",
    "tokenizers",
    "matplotlib",
    "jinja2",
    "scipy",
    "msgspec",
    "starlette",
    "uvicorn",
)


def loaded_by(code: str) -> set[str]:
    """Top-level names in sys.modules after running code in a fresh interpreter."""
    report = f"{code}\nimport sys; print('\\n'.join(sorted({{n.split('.')[0] for n in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_is_light() -> None:
    assert set(HEAVY) & loaded_by("import sharpzo_mlx") == set()


def test_help_and_version_are_lighter() -> None:
    code = "from sharpzo_mlx.cli.main import run; assert run(['--help']) == 0; assert run(['--version']) == 0"
    assert {*HEAVY, "mlx", "numpy"} & loaded_by(code) == set()


def test_help_of_tune_needs_no_mlx() -> None:
    code = "from sharpzo_mlx.cli.main import run; assert run(['tune', '--help']) == 0"
    assert {*HEAVY, "mlx", "numpy"} & loaded_by(code) == set()


def test_no_module_is_named_like_a_public_function() -> None:
    """A lazily loaded `tune` beside `tune.py` would be the function once and the module ever after."""
    import sharpzo_mlx

    assert set(sharpzo_mlx.__all__) & {name for name in MODULES if "." not in name} == set()
