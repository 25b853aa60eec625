"""Damage to texts, images, archives and databases, and what may lie in the place of a file."""

from __future__ import annotations

import os
import random
import socket
import sqlite3
import struct
import zlib
from pathlib import Path

from mutations import mutate_bytes

NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0xFFFF, 13_377, 60_000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
LINES = ("", "\0", "a", "../../x y", "/etc/passwd", "\ufeff", "é" * 400, "x" * 70_000, "{}", "{} {}", "{0.__class__}",
         "# {}", "\x1b[31mred", "a\rerror: forged", "cat", "cat cat; dog; cat", "\u202egpj.exe {}", "0000001 cat",
         "9999999 dog", "$x^{$", "<script>", "n01440764 tench", "{", "}{", "a,b,,c", ";" * 50, "\t\t",
         "cat\u2028dog")  # fmt: skip
DAMAGED_SQL = ("DELETE FROM {t}", "DROP TABLE {t}", "UPDATE {t} SET {c} = NULL", "UPDATE {t} SET {c} = zeroblob(40)",
               "UPDATE {t} SET {c} = 'text'", "UPDATE {t} SET {c} = 1e999", "UPDATE {t} SET {c} = zeroblob(10000000)",
               "ALTER TABLE {t} RENAME TO other", "ALTER TABLE {t} RENAME COLUMN {c} TO other",
               "PRAGMA user_version = 77", "CREATE TRIGGER x AFTER INSERT ON {t} BEGIN DELETE FROM {t}; END",
               "PRAGMA journal_mode = WAL", "ALTER TABLE {t} RENAME TO o; CREATE VIEW {t} AS SELECT * FROM o",
               "PRAGMA page_size = 512; VACUUM",
               "CREATE TABLE extra (x); INSERT INTO extra VALUES (1)")  # fmt: skip


def mutate_text(content: bytes, rng: random.Random) -> bytes:
    """Return a text with lines changed, repeated, mixed, in another encoding, or damaged as bytes."""
    kind = rng.randrange(7)
    if kind == 0:
        return mutate_bytes(content, rng)
    lines = content.decode().splitlines()
    if kind == 1:
        rng.shuffle(lines)
        lines = lines[: rng.randrange(len(lines) + 1)]
    elif kind == 2:
        lines *= rng.choice((2, 500))
    elif kind == 3:
        return "\n".join(lines).encode(rng.choice(("utf-16", "utf-8-sig", "utf-32", "cp037")), "replace")
    elif kind == 4:
        return rng.choice(("\r\n", "\r", "\0", "\x0b", "\u2028", "")).join(lines).encode()
    else:
        for _ in range(rng.randrange(1, 4)):
            lines.insert(rng.randrange(len(lines) + 1), rng.choice(LINES))
    return ("\n".join(lines) + "\n").encode()


def mutate_image(content: bytes, rng: random.Random) -> bytes:
    """Return an image cut short, with its header changed, a number of it replaced, or a bomb."""
    kind = rng.randrange(9)
    if kind == 0:
        return rng.choice((huge_png, huge_gif, huge_webp, huge_bmp, postscript, drawing, huge_ppm))(rng)
    if kind == 1:
        return content[: rng.randrange(len(content))]
    if kind == 2:
        return mutate_bytes(content, rng)
    if kind == 3:
        return content + content[: rng.randrange(len(content))] * rng.choice((1, 30))
    data = bytearray(content)
    end = len(data) if kind == 4 else min(len(data), 400)  # where headers are
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(end)
        if kind in (4, 5):
            data[place] = rng.randrange(256)
        elif kind == 6:
            data[place] ^= 1 << rng.randrange(8)
        else:
            _put_number(data, place, rng)
    return bytes(data)


def _put_number(data: bytearray, place: int, rng: random.Random) -> None:
    width, order = rng.choice("HI"), rng.choice("<>")
    number = struct.pack(order + width, rng.choice(NUMBERS) & (0xFFFF if width == "H" else 0xFFFFFFFF))
    data[place : place + len(number)] = number


def huge_png(rng: random.Random) -> bytes:
    """Return a PNG of up to 60 000 x 60 000 in a few kilobytes."""
    side, deep, kind = rng.choice((2000, 9000, 13_000, 60_000)), rng.choice((1, 8, 16)), rng.choice((0, 2, 3, 4, 6))

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, deep, kind, 0, 0, 0))
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 40_000_000)) if rng.random() < 0.2 else b""
    palette = chunk(b"PLTE", bytes(range(9))) + chunk(b"tRNS", b"\0\x80") if kind == 3 else b""
    rows = zlib.compress(bytes(rng.choice((1000, 30_000_000))), 9)
    return b"\x89PNG\r\n\x1a\n" + header + text + palette + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def huge_gif(rng: random.Random) -> bytes:
    """Return a GIF whose canvas or frame is far larger than its pixels."""
    side = struct.pack("<HH", *rng.choices((1, 13_000, 65_535), k=2))
    frame = struct.pack("<HHHH", *rng.choices((0, 1, 13_000, 65_535), k=4))
    return b"GIF89a" + side + b"\x80\0\0" + bytes(6) + b"," + frame + b"\0\x02\x02D\x01\0;"


def huge_webp(rng: random.Random) -> bytes:
    """Return an animated WebP with a canvas of up to 16 384 x 16 384 and no more than a few bytes in it."""
    side = rng.choice((4000, 13_300, 16_383)).to_bytes(3, "little")
    pixels = b"VP8L" + struct.pack("<I", 14) + b"\x2f\0\0\0\0\x88\x88\x08\0\0\0\0\0\0"
    frame = b"ANMF" + struct.pack("<I", 16 + len(pixels)) + bytes(6) + side + side + b"\x64\0\0\0" + pixels
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x12\0\0\0" + side + side + b"ANIM\x06\0\0\0" + bytes(6) + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


def huge_bmp(rng: random.Random) -> bytes:
    """Return a BMP whose header claims up to two thousand million pixels a side, run-length coded or not."""
    width, height = rng.choices((1, 13_000, 40_000, 0x7FFFFFFF, -40_000, -1), k=2)
    bits, packed = rng.choice(((1, 0), (8, 1), (24, 0), (32, 3), (4, 2)))
    return (
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, width, height, 1, bits, packed, 0, 0, 0, 0, 0) + bytes(60)
    )


def huge_ppm(rng: random.Random) -> bytes:
    """Return an image of a kind that is not read, of many pixels."""
    side = rng.choice((10, 10_000))
    return b"P6 %d %d 255\n" % (side, side) + bytes(300)


def postscript(rng: random.Random) -> bytes:
    """Return a program under an image's name."""
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n(x) run 40 40 scale showpage\n%%EOF\n" + bytes(
        rng.randrange(9)
    )


def drawing(rng: random.Random) -> bytes:
    """Return a page or drawing that names other files."""
    link = rng.choice(("file:///etc/passwd", "http://localhost/x.png"))
    return f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{link}"/></svg>'.encode()


def mutate_archive(content: bytes, rng: random.Random) -> bytes:
    """Return a zip, npz or pickle with names, numbers or opcodes changed, or damaged as bytes."""
    kind = rng.randrange(6)
    if kind == 0:
        return mutate_bytes(content, rng)
    data = bytearray(content)
    if kind == 1:
        return content[: rng.randrange(len(content))]
    if kind == 2:  # the directory of a zip, which stands at the end
        for _ in range(rng.choice((1, 3))):
            _put_number(data, rng.randrange(max(0, len(data) - 2000), len(data) - 4), rng)
    elif kind == 3:  # the program of a pickle stands at the beginning
        for _ in range(rng.choice((1, 2, 6))):
            data[rng.randrange(min(len(data), 3000))] = rng.choice(
                b"().0QRbcdeghijklopqrstuX}]\x80\x81\x85\x89\x8c\x93\x94\x95"
            )
    elif kind == 4:
        words = (b"collections", b"posix\nsys  ", b"builtins   "), (b"OrderedDict", b"system     ", b"eval       ")
        for old, *new in words:
            data = data.replace(old, rng.choice(new), rng.choice((1, -1)))
    else:
        word = rng.choice((b"archive/", b"data.pkl", b".npy", b".weight", b"torch"))
        data = data.replace(
            word, rng.choice((b"../../../", b"/etc/abc", b"\0" * 8, b"\\..\\..\\"))[: len(word)].ljust(len(word), b"x")
        )
    return bytes(data)


def mutate_database(content: bytes, rng: random.Random) -> bytes:
    """Return a sqlite file with a page damaged, or changed by statements as another program might."""
    if rng.random() < 0.6:
        data = bytearray(content)
        for _ in range(rng.choice((1, 4, 40))):
            place = rng.randrange(len(data) if rng.random() < 0.6 else 100)
            data[place] = rng.choice((0, 255, rng.randrange(256)))
        return bytes(data) if rng.random() < 0.8 else mutate_bytes(content, rng)
    base = sqlite3.connect(":memory:", isolation_level=None)
    base.deserialize(content) if hasattr(base, "deserialize") else None
    tables = [row[0] for row in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    if not tables:
        return mutate_bytes(content, rng)
    table = rng.choice(tables)
    column = rng.choice([row[1] for row in base.execute(f"PRAGMA table_info({table})")])
    try:
        base.executescript(rng.choice(DAMAGED_SQL).format(t=table, c=column))
    except sqlite3.Error:
        return mutate_bytes(content, rng)
    return base.serialize()


NODES = ("pipe", "folder", "loop", "dangling", "zero", "random", "victim", "empty", "sparse", "socket", "self", "gone")


def put_node(path: Path, kind: str, victim: Path) -> None:
    """Put something else in the place of a file: a pipe, a folder, a link to a device or victim, a file of 1 TB."""
    path.unlink()
    targets = {
        "loop": path.name,
        "dangling": "nowhere",
        "zero": "/dev/zero",
        "random": "/dev/urandom",
        "victim": str(victim),
        "self": ".",
    }
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
        (path / "x").write_text("x")
    elif kind in targets:
        path.symlink_to(targets[kind])
    elif kind == "sparse":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "socket":
        listener, here = socket.socket(socket.AF_UNIX), os.getcwd()
        os.chdir(path.parent)  # a socket's path may have 100 bytes
        try:
            listener.bind(path.name)
        finally:
            os.chdir(here)
            listener.close()
