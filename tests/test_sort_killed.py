"""`sort` and `sort --undo` killed at random lines: nothing lost, nothing twice, and in the end the tree as it was.

`python tests/sort_kills.py --count 200` does the same for longer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "sort_kills.py"
COUNT = int(os.environ.get("SORT_KILLS", "14"))


def test_killed_sortings_go_on_and_are_undone() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--count", str(COUNT), "--seed", "5"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    tried, kills, failures = (int(cell.strip(" *")) for cell in done.stdout.splitlines()[-1].split("|")[2:5])
    assert tried == COUNT
    assert kills >= COUNT // 2
    assert failures == 0
