"""What `serve` takes at most, how long it waits for slow senders, and what becomes of requests without a sender."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from served import BOUNDARY, Served, as_numbers, form, form_headers, serving

from sharpzo_mlx.serving.limits import Limits


@pytest.fixture(scope="module")
def images(photos: Path) -> list[Path]:
    return sorted(photos.rglob("*.png"))


def test_limits_of_files_requests_and_their_number(finished_run: Path, images: list[Path]) -> None:
    content = images[0].read_bytes()
    limits = Limits(file_bytes=len(content), request_bytes=4 * len(content), files=2)
    with serving(finished_run, limits=limits) as server:
        assert server.predict([("a", content), ("b", content)]).status == 200
        for files in ([("a", content + b"x")], [("a", content)] * 3, [("a", b"x" * len(content))] * 5):
            reply = server.predict(files)
            assert reply.status == 413
            assert "send" in reply.json["error"]
        assert server.ask("POST", "/predict", content + b"x", {"Content-Type": "image/png"}).status == 413
        # without a length the bytes are counted as they come
        chunked = http_chunks(server, [b"x" * 1000] * (8 * len(content) // 1000))
        assert chunked.startswith(b"HTTP/1.1 413")
        assert server.predict([("a", content)]).status == 200
        assert server.get("/health").json["under_way"] == 0


def test_a_form_of_countless_parts_or_headers_is_refused(finished_run: Path, images: list[Path]) -> None:
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="a"\r\n%s\r\nv\r\n'
    with serving(finished_run, limits=Limits(parts=50, part_header_bytes=1000)) as server:
        for count, headers in ((51, ""), (1, f"x: {1000 * 'y'}\r\n")):
            body = (part % headers * count).encode() + form([("a", images[0].read_bytes())])
            reply = server.ask("POST", "/predict", body, form_headers())
            assert reply.status == 413
            assert "part" in reply.json["error"]
        body = (part % "" * 49).encode() + form([("a", images[0].read_bytes())])
        assert server.ask("POST", "/predict", body, form_headers()).status == 200


def http_chunks(server: Served, chunks: list[bytes]) -> bytes:
    """Send a body in chunks, and return what comes back."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: image/png\r\n"
        connection.sendall((head + "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n").encode())
        for chunk in chunks:
            connection.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        connection.sendall(b"0\r\n\r\n")
        return read_all(connection)


def drip(connection: socket.socket) -> int:
    """Send a byte every tenth of a second, forty at most, and return how many the other side took."""
    for count in range(40):
        try:
            connection.sendall(b"G")
        except OSError:  # reset or a broken pipe
            return count
        time.sleep(0.1)
    return 40


def read_all(connection: socket.socket) -> bytes:
    """Return what a connection gives until the other side ends it."""
    found = b""
    while block := connection.recv(1 << 16):
        found += block
    return found


def test_a_server_without_room_says_when_to_come_again(finished_run: Path, images: list[Path]) -> None:
    content = images[0].read_bytes()
    with serving(finished_run, limits=Limits(images=3)) as server:
        full = server.predict([("a", content)] * 4)
        assert full.status == 503
        assert int(full.headers["retry-after"]) > 0
        assert server.predict([("a", content)] * 3).status == 200
    with serving(finished_run, limits=Limits(held_bytes=len(content))) as server:
        assert server.predict([("a", content)] * 4).status == 503
        assert server.ask("POST", "/predict", content, {"Content-Type": "image/png"}).status == 200


def test_slow_senders_are_let_go(finished_run: Path) -> None:
    """Silence, half a header, and half a body."""
    with serving(finished_run, limits=Limits(quiet_seconds=0.5)) as server:
        half = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
        whole = half + "Content-Type: image/png\r\nContent-Length: 100\r\n\r\nabc"
        for sent, answer in ((b"", b""), (half.encode(), b""), (whole.encode(), b"HTTP/1.1 408")):
            start = time.perf_counter()
            with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
                connection.sendall(sent)
                assert read_all(connection)[: len(answer)] == answer
            assert 0.3 < time.perf_counter() - start < 5
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            assert drip(connection) < 40
        assert server.get("/health").status == 200


def test_who_goes_away_harms_nobody(finished_run: Path, images: list[Path]) -> None:
    """Clients that leave in the middle of their body, or while they wait; the others get their answers."""
    content = images[0].read_bytes()
    with serving(finished_run, limits=Limits(gather_seconds=0.2)) as server:
        expected = server.predict([("a", content)]).json

        def leave(share: float) -> None:
            body = form([("a", content)] * 4)
            head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
            head += f"Content-Type: {form_headers()['Content-Type']}\r\nContent-Length: {len(body)}\r\n\r\n"
            with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
                connection.sendall(head.encode() + body[: int(share * len(body))])
                time.sleep(0.05)

        with ThreadPoolExecutor(16) as pool:
            leaving = [pool.submit(leave, share) for share in (1, 0.5) * 10]
            staying = [pool.submit(server.predict, [("a", content)]) for _ in range(10)]
            for one in leaving:
                one.result()
            for reply in (one.result() for one in staying):
                assert reply.status == 200
                found, own = (as_numbers(one["predictions"][0]["labels"]) for one in (reply.json, expected))
                assert found == pytest.approx(own, abs=1e-6)
        end = time.perf_counter() + 10
        while server.get("/health").json["under_way"] and time.perf_counter() < end:
            time.sleep(0.05)
        assert server.get("/health").json["under_way"] == 0
