"""Names on the page of a run: each is isolated, so that one of another direction leaves the words around it alone."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from sharpzo_mlx.cli import main
from sharpzo_mlx.report.page import write_report


@pytest.fixture
def page(finished_run: Path, photos: Path, tmp_path: Path) -> Path:
    run = shutil.copytree(finished_run, tmp_path / "run")
    assert main.run(["evaluate", str(run), str(photos)]) == 0
    return write_report(run, landscape=False)


def test_names_keep_the_direction_of_their_script_to_themselves(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    captions = re.findall(r"<figcaption>(.*? → .*?)</figcaption>", text)
    assert captions
    for caption in captions:
        assert re.fullmatch(r"<bdi>[^<]+</bdi>: [\d.]+ % → [\d.]+ %, now predicted as <bdi>[^<]+</bdi>", caption)
    assert re.findall(r'<td title="[^"]*"><bdi>[^<]+</bdi>', text)
