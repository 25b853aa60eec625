"""Fixtures that many tests share: the testbed beside the repository, and caches in a temporary folder."""

from __future__ import annotations

import importlib
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import sharpzo_mlx  # before any import of mlx: it loads OpenBLAS

TESTBED = Path(__file__).resolve().parents[2] / "shared" / "testbed"
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def pytest_configure(config: pytest.Config) -> None:
    """Let Ctrl-C reach the processes of tests, and products pass where NumPy takes Accelerate's flags for its own.

    A shell's background jobs begin with Ctrl-C ignored; see `runtime/products.py` for the flags.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    newest = tuple(int(part) for part in version("numpy").split(".")[:3] if part.isdigit())
    if sys.platform == "darwin" and newest < (2, 3, 1):
        config.addinivalue_line("filterwarnings", "ignore:.* encountered in matmul:RuntimeWarning")


@pytest.fixture(scope="session")
def testbed() -> Path:
    """Return the folder with a small real CLIP and real images; skip the test where it is missing."""
    if not TESTBED.is_dir():
        pytest.skip("no testbed beside this checkout")
    return TESTBED


@pytest.fixture(scope="session")
def load_benchmark() -> Iterator[Callable[[str], ModuleType]]:
    """Import a script of benchmarks/ by its name; the scripts import one another as when they are run."""
    before = set(sys.modules)
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module
    sys.path.remove(str(BENCHMARKS))
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == BENCHMARKS:
            del sys.modules[name]


@pytest.fixture(autouse=True)
def _own_surroundings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a cache folder of its own, not the user's, and a pipe of no stated width, which xdist states."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("SHARPZO_MLX_CACHE", str(tmp_path_factory.mktemp("cache")))


BYTES = [chr(n) for n in (*range(33, 127), *range(161, 173), *range(174, 256))] + [chr(256 + n) for n in range(68)]
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}


def tiny_tokenizer_json(folder: Path) -> str:
    """Return a tokenizer of single bytes, each with and without the end-of-word mark, and no merges."""
    from sharpzo_mlx.clip.tokenizer import Tokenizer

    words = [*BYTES, *(byte + "</w>" for byte in BYTES), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return Tokenizer.from_folder(folder).to_json()


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the `tokenizer.json` of 514 tokens: single bytes, start and end."""
    return tiny_tokenizer_json(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a CLIP with random towers of width 32 and a byte tokenizer: 1 MB, a query takes a millisecond."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    from sharpzo_mlx.clip.checkpoint import save_model
    from sharpzo_mlx.clip.config import CLIPConfig
    from sharpzo_mlx.clip.model import CLIPModel

    config = CLIPConfig.from_dict(
        {
            "model_type": "clip",
            "projection_dim": 24,
            "text_config": TOWER | {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513},
            "vision_config": TOWER | {"image_size": 16, "patch_size": 8},
        }
    )
    expected: dict[str, mx.array] = dict(tree_flatten(CLIPModel(config).parameters()))
    keys = mx.random.split(mx.random.key(5), len(expected))
    weights = {
        name: mx.ones(array.shape)
        if "norm.weight" in name or "norm1.weight" in name or "norm2.weight" in name
        # images and contexts must matter: a random tower is nearly constant unless its inputs are large
        else mx.random.normal(array.shape, key=key) * (0.05 if "n_embedding" in name else 0.3)
        for (name, array), key in zip(sorted(expected.items()), keys, strict=True)
    }
    weights["logit_scale"] = mx.array(2.5)
    folder = tmp_path_factory.mktemp("tiny-model")
    save_model(folder / "m", config, weights, tiny_tokenizer_json(folder), "A random CLIP for tests.")
    return folder / "m"


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make three classes of twelve images each, which differ by their colour, in plain class folders."""
    import numpy as np
    from PIL import Image

    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name, colour in (("cat", (200, 60, 40)), ("dog", (40, 180, 70)), ("barn owl", (50, 60, 220))):
        (root / name).mkdir()
        for number in range(12):
            noise = rng.integers(-40, 40, (20, 26, 3))
            Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(
                root / name / f"{number}.png"
            )
    return root


@pytest.fixture(scope="session")
def finished_run(tiny_model: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Tune the tiny model on the photos, briefly; a test that changes this run, as `evaluate` does, takes a copy."""
    from sharpzo_mlx.tuning.pipeline import tune

    settings = {"space.dimension": 8, "stage1.population": 6}
    config = sharpzo_mlx.TuneConfig(shots=4, generations=3, steps=4).with_settings(settings)
    run = tune(sharpzo_mlx.load(tiny_model), photos, config, output=tmp_path_factory.mktemp("runs") / "run").folder
    before = {path.name: path.stat().st_size for path in run.iterdir()}
    yield run
    assert {path.name: path.stat().st_size for path in run.iterdir()} == before, "a test has changed `finished_run`"


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command line that must be refused, and return its one line on stderr."""
    from sharpzo_mlx.cli import main

    def attempt(*words: str | Path) -> str:
        capsys.readouterr()
        assert main.run([str(word) for word in words]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        *notes, line = err.splitlines()
        assert all(note.startswith("note: ") for note in notes), err
        assert line.startswith("error: ")
        return line

    return attempt


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Make every attempt to create a file in a folder fail, also for the superuser, whom no mode stops."""

    def close(folder: Path) -> None:
        def within(directory: Any) -> bool:
            return directory is not None and Path(directory).resolve().is_relative_to(folder.resolve())

        for name in ("mkstemp", "TemporaryFile"):
            plain = getattr(tempfile, name)

            def guarded(*args: Any, plain: Any = plain, **details: Any) -> Any:
                if within(details.get("dir")):
                    raise PermissionError(13, "Permission denied", str(Path(details["dir"], ".report-x8.html")))
                return plain(*args, **details)

            monkeypatch.setattr(tempfile, name, guarded)

    return close


@pytest.fixture
def album(photos: Path, tmp_path: Path) -> Path:
    """Make a folder of nine images in two depths, with other files between them."""
    folder = tmp_path / "album"
    (folder / "more" / "still more").mkdir(parents=True)
    for number, place in enumerate([folder, folder / "more", folder / "more" / "still more"] * 3):
        source = photos / ("cat", "dog", "barn owl")[number % 3] / f"{number}.png"
        (place / f"{number}.png").write_bytes(source.read_bytes())
    (folder / "clip.mov").touch()
    (folder / "more" / "notes.txt").touch()
    (folder / ".hidden").touch()
    return folder
