"""What an installation brings: the wheel holds the tree's modules and nothing else, and its script loads."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BESIDE = ("CHANGELOG.md", "CITATION.cff", "SECURITY.md")  # what the sdist has beside the package


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built as pip builds it, from a copy of what git would hand out."""
    folder = tmp_path_factory.mktemp("wheel")
    source = _source_copy(folder / "source")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(source)], check=True, timeout=300)
    (found,) = folder.glob("*.whl")
    return zipfile.ZipFile(found)


def _source_copy(target: Path) -> Path:
    """Copy what a build reads, links kept as links, so that the build writes nothing into this tree."""
    target.mkdir()
    for name in ("sharpzo_mlx", "cli", "convert"):
        shutil.copytree(ROOT / name, target / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", *BESIDE):
        shutil.copy(ROOT / name, target / name)
    return target


def _tree() -> dict[str, bytes]:
    """Every file of the package as an import sees it (through the two links), by its path in a wheel."""
    folders = {"sharpzo_mlx": ROOT / "sharpzo_mlx", "sharpzo_mlx/cli": ROOT / "cli"}
    folders["sharpzo_mlx/convert"] = ROOT / "convert"
    return {
        f"{prefix}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for prefix, folder in folders.items()
        for path in folder.rglob("*")
        if path.is_file()
        and not {"__pycache__", ".DS_Store"} & set(path.parts)
        and (prefix != "sharpzo_mlx" or path.relative_to(folder).parts[0] not in ("cli", "convert"))
    }


def test_wheel_equals_the_tree(wheel: zipfile.ZipFile) -> None:
    """Same files, same bytes: modules, the typing marker, and the demo's model."""
    packed = {name: wheel.read(name) for name in wheel.namelist() if ".dist-info/" not in name}
    tree = _tree()
    assert sorted(packed) == sorted(tree)
    assert [name for name in tree if packed[name] != tree[name]] == []


def test_sdist_has_the_tree_as_ordinary_files(tmp_path: Path) -> None:
    """The two links are folders in it, so that it installs where links cannot be made."""
    source = _source_copy(tmp_path / "source")
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True, timeout=300)
    (found,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(found) as archive:
        members = {member.name.partition("/")[2]: member for member in archive.getmembers()}
        opened = {name: archive.extractfile(member) for name, member in members.items() if member.isfile()}
        packed = {name: file.read() for name, file in opened.items() if file}
    assert not any(member.issym() or member.islnk() for member in members.values())
    tree = _tree()
    assert {name: packed.get(name) for name in tree} == tree
    assert all(packed[name] == (ROOT / name).read_bytes() for name in (*BESIDE, "README.md", "LICENSE"))


def test_one_version_everywhere() -> None:
    """The package's, the changelog's newest section, and the citation's."""
    declared = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    newest = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)[:1]
    cited = re.findall(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert declared == newest == cited


def test_only_the_job_that_publishes_may_identify_itself() -> None:
    """Trusted publishing: no secret is in the workflow, and the permission is that of one job behind an environment."""
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    before, after = text.split("\n  publish:\n")
    assert "secrets." not in text
    assert "id-token: write" not in before
    assert "environment: pypi" in after
    assert "id-token: write" in after
    assert "contents: read" in before


def test_wheel_has_one_top_level_name_and_the_licence(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"sharpzo_mlx"}
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def _metadata(wheel: zipfile.ZipFile) -> str:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return wheel.read(name).decode()


def test_the_description_works_without_the_repository(wheel: zipfile.ZipFile) -> None:
    """PyPI shows the README alone: no link to a file that is not there, and no package in the current folder."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    head, _, text = _metadata(wheel).partition("\n\n")
    assert "Description-Content-Type: text/markdown" in head
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert links == [one for one in re.findall(r"\]\(([^)]*)\)", readme) if one.startswith("https://")]
    assert links
    assert "pip install sharpzo-mlx && sharpzo-mlx demo" in text
    assert not re.search(r"install \.[\s`]", text)
    assert "*In Python* has more." in text
    assert "(`docs/results/cost.md`)" in text
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        line for line in readme.splitlines() if line.startswith("#")
    ]


def test_wheel_is_small(wheel: zipfile.ZipFile) -> None:
    assert sum(item.compress_size for item in wheel.infolist()) < 5_000_000


@pytest.mark.parametrize("name", ["convert", "cli"])
def test_no_global_package_of_a_common_name(name: str, tmp_path: Path) -> None:
    """`import convert` from elsewhere must not find ours."""
    code = f"import importlib.util; print(importlib.util.find_spec({name!r}))"
    command = [sys.executable, "-c", code]
    elsewhere = {variable: value for variable, value in os.environ.items() if variable != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=elsewhere, check=True, capture_output=True, text=True)
    assert done.stdout == "None\n"


def test_links_are_links() -> None:
    """Copies instead of links would drift apart without a word."""
    for name in ("cli", "convert"):
        link = ROOT / "sharpzo_mlx" / name
        assert link.is_symlink()
        assert link.resolve() == ROOT / name


def test_script_loads() -> None:
    (script,) = entry_points(group="console_scripts", name="sharpzo-mlx")
    assert callable(script.load())
    assert script.load() is importlib.import_module("sharpzo_mlx.cli.main").main


def test_every_runtime_import_is_a_declared_dependency(wheel: zipfile.ZipFile) -> None:
    """A third-party module that the package imports is a requirement of the wheel."""
    provided = {
        "mlx": "mlx", "numpy": "numpy", "huggingface_hub": "huggingface_hub", "cma": "cma", "click": "click",
        "cloup": "cloup", "threadpoolctl": "threadpoolctl", "tokenizers": "tokenizers", "rich": "rich",
        "PIL": "Pillow", "pillow_heif": "pillow-heif", "jinja2": "Jinja2", "matplotlib": "matplotlib",
        "tomli": "tomli", "tomli_w": "tomli-w", "safetensors": "safetensors", "msgspec": "msgspec",
    }  # fmt: skip
    extras = {"starlette": "starlette", "uvicorn": "uvicorn", "python_multipart": "python-multipart", "h11": "h11"}
    extras |= {"coremltools": "coremltools", "onnx": "onnx", "onnxruntime": "onnxruntime", "pyarrow": "pyarrow"}
    extras |= {"distributed": "distributed", "dask": "dask", "cryptography": "cryptography"}
    text = _metadata(wheel)
    required = re.findall(r"^Requires-Dist: ([\w.-]+)(?!.*extra ==)", text, re.MULTILINE)
    optional = re.findall(r"^Requires-Dist: ([\w.-]+)(?=.*extra == [\"'](?!dev|oracle))", text, re.MULTILINE)
    used = {
        name.split(".")[0]
        for path, source in _tree().items()
        if path.endswith(".py")
        for name in _imports(source.decode())
    }
    foreign = used - set(sys.stdlib_module_names) - {"sharpzo_mlx"}
    assert foreign <= {*provided, *extras}, "a new dependency: declare it in pyproject.toml and name it here"
    assert {provided[name] for name in foreign - set(extras)} <= set(required)
    assert {extras[name] for name in foreign & set(extras)} <= set(optional)


def _imports(source: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(source)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {
        node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level
    }


def test_the_oldest_mlx_is_the_same_on_macs_and_on_linux() -> None:
    """The workflow takes the version of its job on the oldest MLX from the line of the Macs."""
    wanted = re.findall(r'^ +"mlx(?:\[cpu\])?>=([\d.]+);', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert len(wanted) == 2
    assert len(set(wanted)) == 1
    assert tuple(map(int, wanted[0].split("."))) <= tuple(map(int, version("mlx").split(".")[:3]))


@pytest.mark.parametrize("end", ["sharpzo-mlx demo", "python tests/check.py"])
def test_the_two_commands_make_their_own_environment(end: str) -> None:
    """A stock Mac's `pip install` is refused outside of a virtual environment."""
    lines = [line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if line.endswith(end)]
    assert lines[0].startswith("    python3 -m venv .venv && . .venv/bin/activate && pip install ")
