"""The one way to read a text or JSON file: regular files of bounded size, JSON without surprises."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from sharpzo_mlx import files
from sharpzo_mlx.reading import parse_json, read_bytes, read_json, read_text, reason


def test_content_comes_back_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": [1, 2.5, "\xc3\xa9", null]}')
    (tmp_path / "link").symlink_to("a.json")
    assert read_json(tmp_path / "a.json") == {"a": [1, 2.5, "é", None]}
    assert read_text(tmp_path / "link").startswith("{")
    assert read_bytes(tmp_path / "a.json")[:3] == b"\xef\xbb\xbf"


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "device", "link to a device", "socket", "folder"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path may have some 100 bytes only
    place = Path("odd")
    if "pipe" in kind:
        os.mkfifo("pipe")
        place.symlink_to("pipe")
    elif "device" in kind:
        place.symlink_to("/dev/zero")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("odd")
    else:
        place.mkdir()
    named = place.resolve() if kind in ("pipe", "device") else place
    with pytest.raises(OSError, match="directory" if kind == "folder" else "not a regular file") as raised:
        read_text(named)
    assert raised.value.filename == str(named)


def test_a_pipe_that_replaces_the_file_after_the_look_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("x")
    regular = (tmp_path / "file").stat()
    monkeypatch.setattr(Path, "stat", lambda *_, **__: regular)
    with pytest.raises(OSError, match="not a regular file"):
        files.open_regular(tmp_path / "pipe")


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x" * 100)
    assert read_text(path, limit=100) == "x" * 100
    with pytest.raises(ValueError, match=r"^too large, over 99 bytes$"):
        read_text(path, limit=99)
    os.truncate(path, 1 << 40)  # a hole of a terabyte takes no room
    with pytest.raises(ValueError, match=r"^too large, over 64 MiB$"):
        read_text(path)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs a file whose size the system does not tell")
def test_a_file_of_size_0_is_not_read_without_end() -> None:
    with pytest.raises(ValueError, match="too large, over 10 bytes"):
        read_bytes(Path("/proc/self/status"), limit=10)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no JSON (Expecting value: line 1 column 1 (char 0))"),
        ("[1,", "no JSON"),
        ("[NaN]", "no JSON (NaN is no number)"),
        ("[-Infinity]", "no JSON (-Infinity is no number)"),
        ("1e999", "no JSON (1e999 is too large a number)"),
        ("9" * 5000, "no JSON (99999999999999999999... is too large a number)"),
        ("[" * 100_000, "nested more than 32 deep"),
        ('{"a":' * 100_000, "nested more than 32 deep"),
        ("[" * 33 + "]" * 33, "nested more than 32 deep"),
        ("[" + "1," * 4_000_000 + "1]", "more than 4000000 values"),
        ('"\x1b[31m\n', "no JSON"),
    ],
    ids=lambda text: text[:12],
)
def test_json_with_surprises_is_one_plain_reason(text: str, said: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 (the words are looked at below)
        parse_json(text)
    assert type(raised.value) is ValueError
    assert said in str(raised.value)
    assert str(raised.value).isprintable()


def test_json_as_deep_as_allowed_is_read() -> None:
    content = parse_json("[" * 32 + "18446744073709551615" + "]" * 32)
    for _ in range(32):
        (content,) = content
    assert content == 2**64 - 1


def test_text_that_is_not_utf8_says_where(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"^not UTF-8 \(byte 4\)$"):
        read_text(tmp_path / "a.txt")


def test_reasons_are_one_line() -> None:
    assert reason(PermissionError(13, "Permission denied", "a")) == "permission denied"
    assert reason(ValueError("two\nlines")) == "two lines"
    assert len(reason(ValueError("x" * 1000))) < 200
