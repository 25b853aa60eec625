"""Damaged files of every kind and killed commands, with a fixed seed; `fuzz.py` and `kills.py` go on for longer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
INPUTS, KILLS = 450, 21  # ten of each kind of file, three of each command


def script(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a script of this folder in a process of its own, for it forks and must not have computed before."""
    command = [sys.executable, str(TESTS / name), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=TESTS.parent)


def test_damaged_files_end_in_a_result_or_in_one_line(tmp_path: Path) -> None:
    done = script("fuzz.py", "--seed", "0", "--count", str(INPUTS), "--minutes", "30", "--keep", str(tmp_path))
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert f"| **all** | **{INPUTS}** |" in done.stdout


def test_killed_commands_come_to_the_same_result() -> None:
    done = script("kills.py", "--seed", "0", "--count", str(KILLS))
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert f"| **all** | **{KILLS}** |" in done.stdout


AUDITED = """
import os, subprocess, sys
sys.path[:0] = sys.argv[1:3]
import sharpzo_mlx
from child import Allowed, call
from pathlib import Path
place = Path(sys.argv[3])
(place / "inside").mkdir()
allowed = Allowed((place / "inside",), (place / "inside",))

def act():
    exec(sys.argv[4])
    return 0

done = call(act, place, allowed)
import json
print(json.dumps([done.code, done.touched]))
"""


@pytest.mark.parametrize(
    ("deed", "said"),
    [
        ("open(place / 'inside' / 'a', 'w').close()", ""),
        ("open(place / 'a', 'w').close()", "wrote"),
        ("os.symlink(place / 'b', place / 'inside' / 'l'); open(place / 'inside' / 'l', 'w').close()", "wrote"),
        ("open('/etc/passwd').close()", "read"),
        ("subprocess.run(['true'])", "started"),
        ("os.system('true')", "started"),
        ("import socket; socket.getaddrinfo('localhost', 1)", "network"),
        ("os.mkdir(place / 'c')", "os.mkdir"),
        ("open(place / 'inside' / 'a', 'w').close(); os.rename(place / 'inside' / 'a', place / 'a')", "os.rename"),
    ],
)
def test_the_audit_sees_what_must_not_be_done(deed: str, said: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", AUDITED, str(TESTS), str(TESTS / "fuzz"), str(tmp_path), deed]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    code, touched = json.loads(done.stdout)
    assert code == 0
    assert [line.split()[0] for line in touched][:1] == ([said] if said else [])
