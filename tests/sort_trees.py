"""Random trees of files with all that sorting must live with, and what a tree holds, for tests of `sort`."""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
from pathlib import Path

ODD = ["-r.jpg", "a b.JPG", "ü.jpg", "u\u0308.jpg", "\u202eabc.png", "cr\nlf.jpg", "'\"$(x).jpg", "x" * 240 + ".jpg"]
LABELS = ["cat", "Cat", "barn owl", "AC/DC", "..", "nul", None]
XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="%d"/></rdf:RDF></x:xmpmeta>"""
KEPT = ".sharpzo-sort"


def make_tree(folder: Path, rng: random.Random, images: int = 12) -> list[str]:
    """Make images in three folders, with sidecars, copies and links; return the images' paths."""
    made: list[str] = []
    names = [*ODD, *(f"IMG_{number}.HEIC" for number in range(4)), *(f"{letter}.jpg" for letter in "abAB")]
    if sys.platform == "linux":
        names.append(os.fsdecode(b"caf\xe9.jpg"))
    for _ in range(images):
        place = rng.choice(["", "more/", "more/in/"])
        path = folder / place / rng.choice(names)
        if os.path.lexists(path):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        _make_image(path, folder, made, rng)
        made.append(path.relative_to(folder).as_posix())
        _make_sidecars(path, rng)
    return made


def _make_image(path: Path, folder: Path, made: list[str], rng: random.Random) -> None:
    kind = rng.random()
    if made and kind < 0.1:
        path.symlink_to(os.path.relpath(folder / rng.choice(made), path.parent))
    elif made and kind < 0.2:
        os.link(folder / rng.choice(made), path, follow_symlinks=False)
    elif made and kind < 0.3 and (folder / made[-1]).exists():  # a link's second name may lead nowhere
        path.write_bytes((folder / made[-1]).read_bytes())
    else:
        path.write_bytes(rng.randbytes(rng.choice([1, 300, 200_000])))
        os.utime(path, (1_600_000_000, 1_600_000_000))


def _make_sidecars(path: Path, rng: random.Random) -> None:
    for sidecar in (path.with_name(path.name + ".xmp"), path.with_suffix(".xmp"), path.with_suffix(".AAE")):
        if rng.random() < 0.3 and len(os.fsencode(sidecar.name)) < 250 and not os.path.lexists(sidecar):
            sidecar.write_bytes(XMP % rng.randrange(10**6))
    if path.suffix == ".HEIC":
        path.with_suffix(".MOV").write_bytes(rng.randbytes(500))


def make_plan(file: Path, folder: Path, paths: list[str], rng: random.Random) -> Path:
    """Write a plan file with random labels."""
    labels = [{"path": path, "label": rng.choice(LABELS)} for path in paths if rng.random() < 0.9]
    file.write_text(json.dumps({"format": "sharpzo-mlx plan 1", "folder": str(folder), "labels": labels}))
    return file


def snapshot(*folders: Path) -> dict[str, str]:
    """Return what lies in folders: kinds, digests and links by path, without the journals."""
    found = {}
    for folder in folders:
        for place, inside, files in os.walk(folder):
            inside[:] = [name for name in inside if name != KEPT]
            for name in (*inside, *files):
                path = os.path.join(place, name)
                found[os.path.relpath(path, folder.parent)] = _describe(path)
    return found


def _describe(path: str) -> str:
    if os.path.islink(path):
        return f"link to {os.readlink(path)}"
    if os.path.isdir(path):
        return "folder"
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def parts_left(*folders: Path) -> list[str]:
    """Return hidden files that sorting makes on the way."""
    return [path for path in snapshot(*folders) if Path(path).name.startswith(".sharpzo-")]
