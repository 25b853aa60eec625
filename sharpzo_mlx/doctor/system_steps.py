"""Steps that try what the system does: files in the cloud, locks, spellings of names, threads, limits of memory.

>>> try_locks(workspace).words  # doctest: +SKIP
'a second lock on a folder is refused'
"""

from __future__ import annotations

import unicodedata
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import numpy as np

from sharpzo_mlx.clip.handle import load
from sharpzo_mlx.demo import MODEL_FOLDER
from sharpzo_mlx.doctor.networks import make_objective
from sharpzo_mlx.doctor.steps import Answer, NotHere, Number
from sharpzo_mlx.doctor.workspace import Workspace
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.features.digests import DATALESS
from sharpzo_mlx.files import identify
from sharpzo_mlx.report.formatting import amount
from sharpzo_mlx.runs.run import locked
from sharpzo_mlx.runtime import memory

CLOSE = 1e-5


def read_cloud_flag(workspace: Workspace) -> Answer:
    """Read the flag by which macOS marks files that are in the cloud only, of a file that is here."""
    path = workspace.folder / "here.txt"
    path.write_text("here")
    flags = getattr(path.stat(), "st_flags", None)
    if flags is None:
        raise NotHere("this system's files have no flags")
    return Answer(f"flags of a file that is here: {flags:#x}", {"flags": flags}, not flags & DATALESS)


def try_locks(workspace: Workspace) -> Answer:
    """Lock a folder twice; the second lock has to be refused."""
    folder = workspace.folder / "locked"
    with locked(folder):
        try:
            with locked(folder):
                return Answer("two locks on one folder at once", right=False)
        except UserError:
            return Answer("a second lock on a folder is refused")


def try_spellings(workspace: Workspace) -> Answer:
    """Look a folder up under other spellings; where the disk finds it, this program has to take it for the same."""
    folder = workspace.folder / unicodedata.normalize("NFC", "Café")
    folder.mkdir(exist_ok=True)
    spellings = {"case": "CAFÉ", "unicode": unicodedata.normalize("NFD", "Café")}
    others = {name: workspace.folder / spelling for name, spelling in spellings.items()}
    numbers: dict[str, Number] = {f"folds_{name}": path.is_dir() for name, path in others.items()}
    same = all(identify(path) == identify(folder) for path in others.values() if path.is_dir())
    found = [name for name, path in others.items() if path.is_dir()]
    words = f"names are found whatever their {' and '.join(found)}" if found else "names are found as they are spelt"
    return Answer(words, numbers, same)


def call_from_threads(workspace: Workspace) -> Answer:
    """Use one model and one objective from several threads; the numbers have to be those of this thread."""
    pixels = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
    clip, objective = load(MODEL_FOLDER), make_objective("tiny", classes=3)
    side = clip.config.vision.image_size
    pixels = np.resize(pixels, (2, side, side, 3))
    w = 0.4 * mx.random.normal((3, objective.dimension), key=mx.random.key(0))
    mx.eval(w)
    tasks = (
        lambda: clip.encode_texts(["a photo of a cat.", "a photo of a fern."]),
        lambda: clip.encode_pixels(pixels),
        lambda: objective.losses(w),
        lambda: mx.array(clip.logit_scale),
    )

    def take(number: int) -> list[np.ndarray]:
        """Return the results of all tasks, beginning with another one in each thread."""
        order = [*range(number, len(tasks)), *range(number)]
        found = {index: np.array(tasks[index]()) for index in order}
        return [found[index] for index in range(len(tasks))]

    # one thread after the other: a handle is used from several threads, not by several at once
    answers = [ThreadPoolExecutor(1).submit(take, number).result() for number in range(len(tasks))]
    own = take(0)
    worst = max(float(np.abs(a - b).max() / np.abs(b).max()) for one in answers for a, b in zip(one, own, strict=True))
    return Answer(
        f"{len(answers)} threads find what this one does, to {worst:.0e}", {"difference": worst}, worst <= CLOSE
    )


def read_limits(workspace: Workspace) -> Answer:
    """Read MLX's limits of memory and of its cache."""
    limits = mx.set_memory_limit(memory.physical()), mx.set_cache_limit(memory.physical())
    mx.set_memory_limit(limits[0])
    mx.set_cache_limit(limits[1])
    numbers = {"memory_limit_mb": limits[0] / 2**20, "cache_limit_mb": limits[1] / 2**20}
    return Answer(f"memory {amount(limits[0])}, cache {amount(limits[1])}", dict(numbers))
