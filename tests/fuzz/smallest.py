"""Keep failing inputs, and make them smaller: cut pieces out as long as the same thing fails."""

from __future__ import annotations

import time
from pathlib import Path

from campaign import Campaign, Tried

SECONDS = 20.0  # for making one input smaller


def keep(campaign: Campaign, tried: Tried, folder: Path) -> Path:
    """Write the damaged file of an input beside the commands and what they said; return its place."""
    path, content = campaign.damaged_file(tried.number)
    place = folder / f"seed-{campaign.seed}-input-{tried.number}"
    place.mkdir(parents=True, exist_ok=True)
    (place / path.name).write_bytes(content)
    words = [*(" ".join(line) for line in tried.lines), tried.change, *tried.faults, tried.outcome.err]
    (place / "what-happened.txt").write_text("\n".join(words), errors="backslashreplace")
    return place / path.name


def make_smaller(campaign: Campaign, tried: Tried, folder: Path) -> tuple[Path, int]:
    """Cut halves, quarters and smaller pieces out of a failing input as long as it fails in the same way.

    Returns:
        Where the smallest one is kept, and its size in bytes.
    """
    path = keep(campaign, tried, folder)
    content, ends = path.read_bytes(), time.monotonic() + SECONDS
    wanted = tried.faults[0].split(" '")[0]
    piece = len(content) // 2
    while piece and time.monotonic() < ends and "changed" in tried.change:
        place, shorter = 0, False
        while place < len(content) and time.monotonic() < ends:
            less = content[:place] + content[place + piece :]
            again = campaign.try_input(tried.number, less)
            if any(fault.startswith(wanted) for fault in again.faults):
                content, shorter = less, True
            else:
                place += piece
        piece = piece if shorter and piece < len(content) else piece // 2
    small = path.with_name(f"smallest-{path.name}")
    small.write_bytes(content)
    return small, len(content)
