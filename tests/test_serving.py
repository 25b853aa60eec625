"""`serve`: answers equal those of `predict`, one image does not harm another, and odd requests are refused by name."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from served import BOUNDARY, Served, as_numbers, form, form_headers, serving

import sharpzo_mlx as sz


@pytest.fixture(scope="module")
def images(photos: Path) -> list[Path]:
    return sorted(photos.rglob("*.png"))


@pytest.fixture(scope="module")
def server(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHARPZO_MLX_CACHE", str(tmp_path_factory.mktemp("cache")))
        with serving(finished_run) as served:
            yield served


def bomb() -> bytes:
    """A PNG of a few hundred bytes whose header claims 60 000 x 60 000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def test_answers_are_those_of_predict_whatever_the_batch(
    server: Served, finished_run: Path, images: list[Path]
) -> None:
    """All files in one form, each alone, and all at once from many clients."""
    expected = {p.path.name + p.path.parent.name: p for p in sz.predict(finished_run, images, top=3, reject=0.3)}

    def check(path: Path, record: dict[str, object]) -> None:
        own = expected[path.name + path.parent.name]
        assert as_numbers(record["labels"]) == pytest.approx(dict(own.labels), abs=1e-6)
        assert record["rejected"] == own.rejected
        assert record["error"] is None

    def alone(path: Path) -> None:
        headers = {"Content-Type": "image/png"}
        reply = server.ask("POST", "/predict?top=3&reject=0.3", path.read_bytes(), headers)
        check(path, reply.json["predictions"][0])

    whole = server.predict([(path.name, path.read_bytes()) for path in images], "?top=3&reject=0.3")
    assert whole.status == 200
    assert whole.body.endswith(b"}\n")  # so that a prompt does not stand behind it
    for path, record in zip(images, whole.json["predictions"], strict=True):
        assert record["name"] == path.name
        check(path, record)
    alone(images[0])
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(alone, images))
    assert len({prediction.rejected for prediction in expected.values()}) == 2


def test_an_unreadable_image_does_not_stop_the_others(server: Served, images: list[Path]) -> None:
    files = [("a.png", images[0].read_bytes()), ("passwd", b"root:x:0:0"), ("b.png", bomb()), ("", b"")]
    reply = server.predict([*files, ("c.png", images[30].read_bytes())])
    assert reply.status == 200
    errors = [record["error"] for record in reply.json["predictions"]]
    assert errors[0] is errors[4] is None
    assert errors[1] == "not an image of a kind that can be read"
    assert "more pixels than can be decoded" in errors[2]
    assert errors[3] == "the file is empty"
    assert [bool(record["labels"]) for record in reply.json["predictions"]] == [True, False, False, False, True]
    assert server.predict([("b.png", bomb())]).status == 422


def test_nearest_images_are_the_labelled_ones_and_an_image_is_nearest_to_itself(
    server: Served, finished_run: Path, photos: Path
) -> None:
    run = sz.Run.load(finished_run)
    drawn = [*run.record.images.train, *run.record.images.val]
    for name, label in (drawn[0], drawn[-1]):
        content = (photos / name).read_bytes()
        (record,) = server.predict([("x.png", content)], "?neighbours=3").json["predictions"]
        near = record["neighbours"]
        assert near[0]["label"] == run.record.class_names[label]
        assert near[0]["similarity"] == pytest.approx(1, abs=1e-5)
        assert [one["similarity"] for one in near] == sorted((one["similarity"] for one in near), reverse=True)
        thumbnail = server.get(near[0]["image"])
        assert thumbnail.headers["content-type"] == "image/jpeg"
        shown = np.asarray(Image.open(io.BytesIO(thumbnail.body))).mean(axis=(0, 1))
        np.testing.assert_allclose(shown, np.asarray(Image.open(io.BytesIO(content))).mean(axis=(0, 1)), atol=6)
    for name in (str(len(drawn)), "-1", "9" * 30, "..%2f..%2frun", "1e3"):
        assert server.get(f"/neighbours/1/{name}.jpg").status == 404


def test_classes_health_and_description(server: Served, finished_run: Path) -> None:
    run = sz.Run.load(finished_run)
    pairs = zip(run.record.class_names, run.record.class_folders, strict=True)
    classes = [{"label": name, "folder": folder} for name, folder in pairs]
    assert server.get("/classes").json == {"classes": classes, "version": 1}
    health = server.get("/health").json
    assert health["status"] == "ok"
    assert health["run"] == finished_run.name
    assert health["under_way"] == 0
    described = server.get("/openapi.json").json
    assert described["openapi"].startswith("3.")
    record = server.predict([("x", b"")]).json["predictions"][0]
    assert set(described["components"]["schemas"]["Prediction"]["properties"]) == set(record)
    assert set(described["components"]["schemas"]["Health"]["properties"]) == set(health)
    named = json.dumps(described).split('"#/components/schemas/')[1:]
    assert {part.partition('"')[0] for part in named} <= set(described["components"]["schemas"])
    assert str(finished_run.parent) not in server.get("/").body.decode() + json.dumps(health)
    for path in ("/docs", "/redoc", "/static/../page.html.j2", "/static/%2e%2e/page.py", "/etc/passwd"):
        assert server.get(path).status == 404


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("?top=0", "top: give a whole number"),
        ("?top=x", "top: give a whole number"),
        ("?top=" + "9" * 5000, "top: give a whole number"),
        ("?reject=2", "reject 2: must be above 0"),
        ("?reject=nan", "reject nan: must be above 0"),
        ("?reject=often", "reject: give a rate"),
        ("?neighbours=21", "neighbours: give a whole number"),
        ("?rejct=0.05", "rejct: no such parameter"),
    ],
)
def test_a_wrong_parameter_is_named(server: Served, query: str, words: str) -> None:
    reply = server.predict([("x.png", b"")], query)
    assert reply.status == 400
    assert words in reply.json["error"]


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("text/plain", b"hello", 415),
        ("application/x-www-form-urlencoded", b"a=b", 415),
        ("", b"hello", 415),
        ("multipart/form-data", b"hello", 400),
        ("multipart/form-data; boundary=" + "x" * 300, b"hello", 400),
        ("multipart/form-data; boundary=x", b"hello", 400),
        ("multipart/form-data; boundary=x", b"--x--\r\n", 400),
        (f"multipart/form-data; boundary={BOUNDARY}", form([("a.png", b"1")])[:-20], 400),
        (f"multipart/form-data; boundary={BOUNDARY}", b"--a-boundary\r\nno header\r\n\r\n1\r\n", 400),
        ("image/png", b"", 400),
    ],
)
def test_a_body_of_another_kind_is_refused_in_one_line(server: Served, kind: str, body: bytes, status: int) -> None:
    reply = server.ask("POST", "/predict", body, {"Content-Type": kind})
    assert reply.status == status
    assert "\n" not in reply.json["error"]


def test_damaged_forms_are_answered_and_nothing_else(server: Served, images: list[Path]) -> None:
    """Bytes that are changed, cut out, doubled or put in, with the length right and wrong boundaries among them."""
    rng = np.random.default_rng(5)
    whole = form([("a.png", images[0].read_bytes()[:400]), ('b";x="y.png', b"text"), ("c", b"")])
    found = set()
    for _ in range(150):
        body = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            start = int(rng.integers(0, len(body)))
            end = start + int(rng.integers(0, 40))
            kind = rng.integers(0, 4)
            if kind == 0:
                body[start] = int(rng.integers(0, 256))
            elif kind == 1:
                del body[start:end]
            elif kind == 2:
                body[start:start] = body[start:end]
            else:
                body[start:start] = [b"\r\n", b"--a-boundary", b"\0", b'"', b"--"][rng.integers(0, 5)]
        reply = server.ask("POST", "/predict", bytes(body), form_headers())
        assert reply.status in (200, 400, 413, 422), bytes(body)
        assert isinstance(reply.json, dict)
        found.add(reply.status)
    assert {400, 422} <= found
    assert server.get("/health").json["under_way"] == 0


def test_compressed_bodies_and_other_methods_are_refused(server: Served) -> None:
    headers = {"Content-Type": "image/png", "Content-Encoding": "gzip"}
    assert server.ask("POST", "/predict", b"x", headers).status == 415
    for method in ("GET", "PUT", "DELETE", "OPTIONS", "TRACE"):
        reply = server.ask(method, "/predict")
        assert reply.status == 405
        assert not any(name.startswith("access-control") for name in reply.headers)


@pytest.mark.parametrize(
    "name",
    [
        "x" * 1000,
        "../../etc/passwd",
        "<img src=x onerror=alert(1)>.png",
        "a%0d%0aSet-Cookie: x=1",
        "\u202egnp.exe",
        "\x1b[31mred",
        "猫.png",
    ],
)
def test_a_name_is_handed_back_and_nothing_else(
    server: Served, images: list[Path], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reply = server.predict([(name, images[0].read_bytes())])
    assert reply.json["predictions"][0]["name"] == name
    assert reply.headers["content-type"] == "application/json"
    assert "set-cookie" not in reply.headers
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_no_utf_8_or_ends_its_header(server: Served, images: list[Path]) -> None:
    body = form([(b"\xff\xfe.png", images[0].read_bytes())])
    reply = server.ask("POST", "/predict", body, form_headers())
    assert reply.json["predictions"][0]["name"] == "\ufffd\ufffd.png"
    body = form([(b'a"\r\nX-Evil: 1\r\nY: "b', images[0].read_bytes())])
    reply = server.ask("POST", "/predict", body, form_headers())
    assert reply.json["predictions"][0]["name"] == "a"
    assert "x-evil" not in reply.headers


def test_a_run_without_a_head_labels_and_says_why_it_cannot_reject(
    tiny_model: Path, photos: Path, tmp_path: Path, images: list[Path]
) -> None:
    config = sz.TuneConfig(shots=4, head="none", generations=0, steps=0).with_settings({"space.dimension": 8})
    run = sz.tune(sz.load(tiny_model), photos, config, output=tmp_path / "run", report=False)
    with serving(run.folder) as server:
        assert server.get("/health").json["rejects"] is False
        page = server.get("/").body.decode()
        assert "cannot tell what is none of the classes" in page
        assert 'id="reject"' not in page
        assert server.predict([("a", images[0].read_bytes())]).status == 200
        reply = server.predict([("a", images[0].read_bytes())], "?reject=0.05")
        assert reply.status == 400
        assert "without a head" in reply.json["error"]


def test_too_few_images_for_a_rate_is_a_note(server: Served, images: list[Path]) -> None:
    reply = server.predict([("a", images[0].read_bytes())], "?reject=0.0001")
    assert reply.json["predictions"][0]["rejected"] is False
    assert "too few" in reply.json["notes"][0]
