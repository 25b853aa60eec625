"""Find the files of onnxruntime-web that a page needs: in a folder, in npm's archive, or by npm itself.

They are copied beside the page, so that nothing is fetched when it is used.

>>> sorted(find("onnxruntime-web-1.30.0.tgz").files)  # doctest: +SKIP
['ort-wasm-simd-threaded.mjs', 'ort-wasm-simd-threaded.wasm', 'ort.wasm.min.mjs']
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sharpzo_mlx.errors import UserError, notify, one_line, why
from sharpzo_mlx.files import expand, open_regular

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"  # the version that the page was tested with
FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
ABOUT = "package.json"
LARGEST = 100_000_000  # bytes of one file
NPM_SECONDS = 600
_ADVICE = f"run `npm pack {PACKAGE}@{VERSION}` and give its archive as --runtime"


@dataclass(frozen=True)
class WebRuntime:
    """The runtime: its files by name, and its version."""

    files: dict[str, bytes]
    version: str


def find(given: str | Path | None) -> WebRuntime:
    """Return the runtime.

    Args:
        given: a folder with its files, the archive that `npm pack` makes, or None to let npm fetch it.

    Raises:
        UserError: it is not there, or lacks a file; npm is not there, or fails.
    """
    if given is None:
        return _fetch()
    place = expand(given)
    if place.is_dir():
        return _read_folder(place)
    try:
        return _read_archive(place)
    except OSError as error:
        raise UserError(f"{place}: cannot be read ({why(error)}); {_ADVICE}") from error


def _read_folder(place: Path) -> WebRuntime:
    files = {}
    for name in FILES:
        found = next((path for path in (place / name, place / "dist" / name) if path.is_file()), None)
        if found is None:
            raise UserError(f"{place}: lacks {name} of {PACKAGE}; {_ADVICE}")
        with open_regular(found) as file:
            files[name] = file.read(LARGEST)
    about = place / ABOUT
    return WebRuntime(files, _version(about.read_bytes()[:LARGEST] if about.is_file() else b""))


def _read_archive(place: Path) -> WebRuntime:
    """Read single members of an archive; nothing is unpacked."""
    wanted = {f"package/dist/{name}": name for name in FILES} | {f"package/{ABOUT}": ABOUT}
    files: dict[str, bytes] = {}
    try:
        with open_regular(place) as raw, tarfile.open(fileobj=raw, mode="r:gz") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() and member.name in wanted else None
                if content is not None:
                    files[wanted[member.name]] = content.read(LARGEST)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise UserError(f"{place}: no archive of {PACKAGE}; {_ADVICE}") from error
    if missing := [name for name in FILES if name not in files]:
        raise UserError(f"{place}: lacks {missing[0]} of {PACKAGE}; {_ADVICE}")
    about = files.pop(ABOUT, b"")
    return WebRuntime(files, _version(about))


def _version(about: bytes) -> str:
    try:
        return one_line(str(json.loads(about)["version"]))
    except (ValueError, LookupError, TypeError):
        return "of an unknown version"


def _fetch() -> WebRuntime:
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(f"--to web: needs the files of {PACKAGE}, and npm is not here; where it is, {_ADVICE}")
    notify(f"fetching {PACKAGE} {VERSION} with npm; --runtime takes an archive that is here already")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", "--silent", f"{PACKAGE}@{VERSION}"]
        try:
            subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=NPM_SECONDS)
        except (OSError, subprocess.SubprocessError) as error:
            raise UserError(f"--to web: npm could not fetch {PACKAGE}; {_ADVICE}") from error
        return _read_archive(next(Path(folder).glob("*.tgz")))
