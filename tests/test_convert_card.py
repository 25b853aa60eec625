"""The model card: the name of a folder may be anything and writes nothing of its own into it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest
from damaged_models import copy

from sharpzo_mlx.convert import card, convert

HOSTILE = (
    "ckpt`touch x`; rm -rf $HOME\n---\nlicense: mit\n---\n<script>alert(1)<\u2215script>",
    "a```b``c`",
    "`",
    'x\' "$(id)" \\',
    "[click](javascript:alert(1)) *bold* <b>",
    "\x1b[31mred\r\u202eback",
    "-rf --help",
)


def write(name: str) -> list[str]:
    return card.write(name, dtype=None, quantise=None, licence=None, on_hub=False).split("\n")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_quoted(name: str) -> None:
    lines, plain = write(name), write("plain")
    assert len(lines) == len(plain)
    assert lines[:4] == plain[:4]
    assert all(line.isprintable() for line in lines)
    assert [index for index, line in enumerate(lines) if line == "---"] == [0, 3]
    (command,) = (line for line in lines if line.startswith("    sharpzo-mlx convert"))
    assert shlex.split(command)[:2] == ["sharpzo-mlx", "convert"]
    assert len(shlex.split(command)) == 3
    for line in lines[4:]:
        if line != command:
            assert_only_in_code(line)


def assert_only_in_code(line: str) -> None:
    """What has a meaning in Markdown or HTML stands between two fences of backticks of one length."""
    outside, rest = "", line
    while "`" in rest:
        before, _, rest = rest.partition("`")
        fence = "`" + rest[: len(rest) - len(rest.lstrip("`"))]
        rest = rest[len(fence) - 1 :]
        end = next(i for i in range(len(rest)) if rest.startswith(fence, i) and not _touches(rest, i, len(fence)))
        outside, rest = outside + before, rest[end + len(fence) :]
    assert not set(outside + rest) & set("<>[]*$\\"), line


def _touches(text: str, start: int, length: int) -> bool:
    return text[start - 1 : start] == "`" or text[start + length : start + length + 1] == "`"


def test_a_plain_name_reads_as_before() -> None:
    text = "\n".join(write("clip-tiny"))
    assert "# clip-tiny for sharpzo-mlx" in text
    assert "a local folder, `clip-tiny`;" in text
    assert "    sharpzo-mlx convert clip-tiny\n" in text


def test_a_long_name_is_cut() -> None:
    assert max(map(len, write("x" * 10**6))) < 500


def test_a_card_that_cannot_be_read_is_written_anew(tiny_model: Path, tmp_path: Path) -> None:
    for number, spoil in enumerate((lambda path: path.write_bytes(b"\xff\xfe"), os.mkfifo)):
        folder = copy(tiny_model, tmp_path / f"m{number}")
        (folder / "README.md").unlink()
        spoil(folder / "README.md")
        made = convert(folder, tmp_path / f"o{number}").folder
        assert (made / "README.md").read_text().startswith("---\n")
