"""Check a release: build wheel and sdist, install both into empty environments, use them there, ask pip for Macs.

It needs the network, so the tests do not run it, and takes about three minutes. What is built is what git knows, with
your changes. The demonstration runs without extras; with them its run sorts, is exported and served. For Macs, pip's
dry run chooses files for macOS 14 on arm64, with the markers of that system in every requirement (`pip --platform`
alone keeps those of this machine).

usage: python tests/check_release.py [--keep FOLDER]     (--keep: put wheel and sdist into this folder)
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import venv
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
MAC = "macosx_14_0_arm64"
EXTRAS = "serve,onnx,parquet,cluster,coreml"  # those of users
# pip with the markers of a Mac; the names are those of the markers in requirements
PIP_AS_ON_A_MAC = """
import sys
from pip._vendor.packaging import markers
from pip._internal.cli.main import main
here, python = markers.default_environment(), sys.argv.pop(1)
mac = {"os_name": "posix", "sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64",
       "python_version": python, "python_full_version": python + ".0", "platform_release": "23.0.0"}
markers.default_environment = lambda: {**here, **mac}
sys.exit(main(sys.argv[1:]))
"""


def surroundings(folder: Path) -> dict[str, str]:
    """Return the variables of a user whose cache lies in a folder: none of this environment's packages."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return clean | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "SHARPZO_MLX_CACHE": str(folder / "cache")}


def run(*command: str | Path, folder: Path) -> str:
    """Run a command without this environment's packages, and return its stdout; exit with its words if it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, env=surroundings(folder), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def copy_tracked(target: Path) -> Path:
    """Copy the files that git knows, links as links."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if os.path.lexists(ROOT / name):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name, follow_symlinks=False)
    return target


def make_environment(folder: Path) -> Path:
    """Make an empty environment, and return its Python."""
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


def build(work: Path) -> tuple[Path, Path]:
    """Build the sdist, and the wheel from the sdist; return both."""
    source = copy_tracked(work / "source")
    python = make_environment(work / "builder")
    run(python, "-m", "pip", "install", "--quiet", "build", "twine", folder=work)
    run(python, "-m", "build", "--outdir", work / "dist", source, folder=work)
    (wheel,), (sdist,) = (work / "dist").glob("*.whl"), (work / "dist").glob("*.tar.gz")
    run(python, "-m", "twine", "check", "--strict", wheel, sdist, folder=work)  # would PyPI show the description?
    return wheel, sdist


def compare_contents(wheel: Path, sdist: Path, source: Path) -> None:
    """Check that both hold every file of the package, those behind the two links too, as ordinary files."""
    tree = {
        path.relative_to(source).as_posix(): path.read_bytes()
        for folder in ("sharpzo_mlx", "sharpzo_mlx/cli", "sharpzo_mlx/convert")
        for path in (source / folder).rglob("*")
        if path.is_file()
    }
    packed = zipfile.ZipFile(wheel)
    names = {name for name in packed.namelist() if ".dist-info/" not in name}
    if names != set(tree) or any(packed.read(name) != tree[name] for name in names):
        sys.exit(f"the wheel differs from the tree: {sorted(names ^ set(tree))}")
    with tarfile.open(sdist) as archive:
        files = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    if missing := set(tree) - files:
        sys.exit(f"the sdist lacks {sorted(missing)}")


def try_wheel(wheel: Path, work: Path) -> None:
    """Install the wheel into an empty environment, and use it there, in an empty folder: without extras, then with."""
    python, folder = make_environment(work / "empty"), work / "elsewhere"
    run(python, "-m", "pip", "install", "--quiet", wheel, folder=work)
    folder.mkdir()
    program = python.parent / "sharpzo-mlx"
    print(run(program, "--version", folder=folder).strip())
    print(run(program, "demo", "--output", "demo", folder=folder).strip())
    run(program, "sort", "demo/run", "demo/images/day", "--recursive", "--into", "sorted", "--apply", folder=folder)
    print(f"sort: {sum(path.is_file() for path in (folder / 'sorted').rglob('*.*'))} files")
    run(python, "-m", "pip", "install", "--quiet", f"{wheel}[{EXTRAS}]", folder=work)
    for form, name in (("bundle", "bundle"), ("onnx", "demo.onnx")):
        print(run(program, "export", "demo/run", "--to", form, "--output", name, folder=folder).strip())
    try_server(program, folder)


def try_server(program: Path, folder: Path) -> None:
    """Serve the demonstration's run, and fetch its page."""
    command = [str(program), "serve", "demo/run", "--port", "0"]
    heard: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=folder, env=surroundings(folder), **heard) as server:
        try:
            said = []
            for line in server.stdout or ():
                said.append(line)
                if line.startswith("http://"):
                    break
            else:
                sys.exit(f"serve: {''.join(said)}")
            with urllib.request.urlopen(said[-1].strip(), timeout=60) as answer:
                page = answer.read().decode()
        finally:
            server.terminate()
    if "12 classes" not in page:
        sys.exit(f"serve: {page[:1000]}")
    print("serve: its page has the 12 classes")


def try_sdist(sdist: Path, work: Path) -> None:
    """Install the sdist into an empty environment, without what it requires, which the wheel's has shown."""
    python = make_environment(work / "from-source")
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", sdist, folder=work)
    listed = run(python, "-m", "pip", "show", "--files", "sharpzo-mlx", folder=work)
    if "sharpzo_mlx/cli/main.py" not in listed or "sharpzo_mlx/convert/card.py" not in listed:
        sys.exit("the sdist installs without cli/ or convert/")


def resolve_for_macs(wheel: Path, work: Path) -> None:
    """Let pip choose files for macOS 14 on arm64 and each Python, with the extras, wheels alone; install nothing."""
    python = make_environment(work / "resolver")
    run(python, "-m", "pip", "install", "--quiet", "--upgrade", "pip", folder=work)
    for version in PYTHONS:
        asked = ["--platform", MAC, "--python-version", version, "--implementation", "cp", "--only-binary=:all:"]
        what = ["--target", str(work / "target"), *asked, f"{wheel}[{EXTRAS}]"]
        where = ["install", "--dry-run", "--ignore-installed", *what]
        words = run(python, "-c", PIP_AS_ON_A_MAC, version, *where, folder=work)
        (chosen,) = (line for line in words.splitlines() if line.startswith("Would install"))
        if "mlx-metal" not in chosen:
            sys.exit(f"macOS 14 on arm64, Python {version}: MLX comes without Metal: {chosen}")
        print(f"macOS 14 on arm64, Python {version}: {chosen}")


def main(arguments: list[str]) -> int:
    """Take every step; the exit code is 0 only if all passed."""
    if arguments and (len(arguments) != 2 or arguments[0] != "--keep"):
        print(__doc__)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        wheel, sdist = build(work)
        compare_contents(wheel, sdist, work / "source")
        try_wheel(wheel, work)
        try_sdist(sdist, work)
        resolve_for_macs(wheel, work)
        if arguments:
            shutil.copytree(work / "dist", arguments[1], dirs_exist_ok=True)
    print("release: all passed")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
