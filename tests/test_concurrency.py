"""Several processes at once: on one empty cache, into one folder, and on a run that is being written."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from comparison_runs import CONFIG
from tiny_settings import SMALL

PROGRAM = "import sys; from sharpzo_mlx.cli.main import run; sys.exit(run(sys.argv[1:]))"
FLAGS = [word for name, value in SMALL.items() if "." in name for word in ("--set", f"{name}={value}".lower())]
PLAIN = [word for name in ("head", "shots", "generations", "steps") for word in (f"--{name}", str(SMALL[name]))]


def start(*words: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(*processes: subprocess.Popen[str]) -> tuple[list[int], list[str]]:
    """Wait for processes; return their exit codes and what they said on stderr."""
    said = [process.communicate(timeout=240)[1] for process in processes]
    return [process.returncode for process in processes], said


def test_four_processes_fill_one_empty_cache(tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    words: list[str | Path] = ["tune", photos, "--model", tiny_model, "--no-report", *PLAIN, *FLAGS]
    processes = [start(*words, "--output", tmp_path / str(number)) for number in range(4)]
    codes, said = finish(*processes)
    assert codes == [0] * 4, said
    prompts = {(tmp_path / str(number) / "prompt.safetensors").read_bytes() for number in range(4)}
    assert len(prompts) == 1
    (cache,) = Path(os.environ["SHARPZO_MLX_CACHE"]).glob("features/*.sqlite")
    with sqlite3.connect(cache) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM features").fetchone() == (36,)
    connection.close()


def test_two_comparisons_into_one_folder(tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    words: list[str | Path] = ["compare", photos, "--model", tiny_model, "--methods", "zero-shot,ncm,ridge"]
    words += ["--seeds", "2", "--shots", "4", "--query-budget", str(CONFIG.query_budget), "--output", tmp_path / "c"]
    processes = [start(*words) for _ in range(2)]
    codes, said = finish(*processes)
    assert codes in ([0, 0], [0, 2], [2, 0]), said
    assert all("Traceback" not in err for err in said)
    assert not list((tmp_path / "c").rglob(".*"))
    first = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert finish(start(*words))[0] == [0]
    assert json.loads((tmp_path / "c" / "comparison.json").read_text()).keys() == first.keys()
    assert len(list((tmp_path / "c" / "results").iterdir())) == 6


def test_a_run_is_evaluated_while_it_is_written(tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    long = [word if word != "30" else "600" for word in PLAIN]
    tuning = start("tune", photos, "--model", tiny_model, "--output", out, "--no-report", *long, *FLAGS)
    deadline, codes = time.monotonic() + 120, []
    while tuning.poll() is None and time.monotonic() < deadline:
        if (out / "prompt.safetensors").exists():
            (code,), (err,) = finish(start("evaluate", out, photos))
            assert "Traceback" not in err
            codes.append(code)
        else:
            time.sleep(0.02)
    assert finish(tuning)[0] == [0]
    assert set(codes) <= {0, 2}
    assert finish(start("evaluate", out, photos))[0] == [0]


@pytest.mark.parametrize("kind", ["tune", "convert"])
def test_one_of_four_gets_the_place(kind: str, tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    words: list[str | Path] = (
        ["tune", photos, "--model", tiny_model, "--no-report", *PLAIN, *FLAGS]
        if kind == "tune"
        else ["convert", tiny_model]
    )
    processes = [start(*words, "--output", tmp_path / "o") for _ in range(4)]
    codes, said = finish(*processes)
    assert sorted(codes) == [0, 2, 2, 2], said
    assert all(err.count("error: ") == (code == 2) for err, code in zip(said, codes, strict=True))
    assert os.listdir(tmp_path) == ["o"]
    assert not list((tmp_path / "o").glob(".*"))
