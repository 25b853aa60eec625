"""Whom `serve` answers: hosts, origins, tokens; what its answers forbid; and how the command begins and ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import util
from pathlib import Path

import pytest
from served import Reply, Served, serving

from sharpzo_mlx.cli import main

TOKEN = "a-token-of-the-tests"


@pytest.fixture(scope="module")
def server(finished_run: Path) -> Iterator[Served]:
    with serving(finished_run, hosts=["Photos.example.org", "proxied.example.org:443"]) as served:
        yield served


@pytest.fixture(scope="module")
def closed(finished_run: Path) -> Iterator[Served]:
    """A server with a token, which may be called by any address."""
    with serving(finished_run, token=TOKEN, any_address=True, hosts=["box"]) as served:
        yield served


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("127.0.0.1:PORT", True),
        ("localhost:PORT", True),
        ("LOCALHOST:PORT", True),
        ("[::1]:PORT", True),
        ("photos.example.org:PORT", True),
        ("proxied.example.org:443", True),
        ("127.0.0.1", False),
        ("localhost:1", False),
        ("localhost:PORTx", False),
        ("127.0.0.1.evil.example:PORT", False),
        ("evil.example:PORT", False),
        ("evil.example", False),
        ("192.168.0.7:PORT", False),
        ("localhost@evil.example:PORT", False),
        ("", False),
    ],
)
def test_only_own_names_with_the_own_port_are_answered(server: Served, host: str, known: bool) -> None:
    """A name that an attacker lets resolve to this machine is not one of them."""
    for path in ("/", "/health", "/static/app.js", "/neighbours/1/0.jpg"):
        reply = server.get(path, Host=host.replace("PORT", str(server.port)))
        assert reply.status == (200 if known else 421)
        assert known or b"cat" not in reply.body


def test_two_or_no_hosts_are_refused(server: Served) -> None:
    for heads in ("", f"Host: localhost:{server.port}\r\nHost: evil.example\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(f"GET /health HTTP/1.0\r\n{heads}\r\n".encode())
            assert connection.recv(100).split()[1] in (b"400", b"421")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 422),
        ({"Origin": "http://127.0.0.1:PORT"}, 422),
        ({"Origin": "http://127.0.0.1:PORT", "Sec-Fetch-Site": "same-origin"}, 422),
        ({"Origin": "http://localhost:PORT"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "http://127.0.0.1"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_only_the_own_page_may_send_from_a_browser(server: Served, headers: dict[str, str], status: int) -> None:
    given = {name: value.replace("PORT", str(server.port)) for name, value in headers.items()}
    reply = server.predict([("x", b"no image")], headers=given)
    assert reply.status == status
    assert not any(name.startswith("access-control") for name in reply.headers)


@pytest.mark.parametrize("path", ["/", "/health", "/static/app.js", "/nothing", "/predict"])
def test_every_answer_has_the_headers(server: Served, path: str) -> None:
    headers = server.get(path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers


def test_the_page_fetches_from_its_own_server_alone(server: Served) -> None:
    page = server.get("/").body.decode()
    assert set(re.findall(r'(?:src|href)="([^"]*)"', page)) == {"data:,", "/static/style.css", "/static/app.js"}
    assert "<script>" not in page
    assert not re.search(r'\s(on\w+|style)="', page)
    for name in ("app.js", "style.css"):
        assert "://" not in server.get(f"/static/{name}").body.decode()
    assert server.get("/static/app.js").headers["content-type"].startswith("text/javascript")


def test_with_a_token_nothing_is_told_without_it(closed: Served) -> None:
    for path in ("/", "/health", "/classes", "/openapi.json", "/static/app.js", "/neighbours/1/0.jpg", "/nothing"):
        assert closed.get(path).status == 401
        for wrong in ("Bearer", f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer \xe9"):
            assert closed.get(path, Authorization=wrong).status == 401
    assert closed.predict([("x", b"")]).status == 401
    assert closed.get("/?token=wrong").status == 401
    assert "set-cookie" not in closed.get("/?token=wrong").headers
    assert closed.get("/health", Authorization=f"Bearer {TOKEN}").json["status"] == "ok"
    assert closed.predict([("x", b"")], headers={"Authorization": f"bearer {TOKEN}"}).status == 422
    assert closed.predict([("x", b"")], f"?token={TOKEN}").status == 401  # an address is written into logs


def test_the_address_with_the_token_sets_a_cookie_and_leaves_the_address_bar(closed: Served) -> None:
    reply = closed.get(f"/?token={TOKEN}")
    assert (reply.status, reply.headers["location"]) == (303, "/")
    cookie, *flags = [part.strip() for part in reply.headers["set-cookie"].split(";")]
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(flags)
    assert closed.get("/", Cookie=f"other=1; {cookie}").status == 200
    assert closed.get("/", Cookie=f"{cookie}x").status == 401
    assert closed.predict([("x", b"")], headers={"Cookie": cookie}).status == 422
    foreign = {"Cookie": cookie, "Origin": "http://evil.example"}
    assert closed.predict([("x", b"")], headers=foreign).status == 403
    assert closed.ask("GET", f"//evil.example/?token={TOKEN}").headers["location"] == "/"


def test_beyond_the_loopback_addresses_are_names_too(closed: Served) -> None:
    for host, known in (("192.168.0.7", True), ("[fe80::1]", True), ("BOX", True), ("evil.example", False)):
        reply = closed.get("/health", Host=f"{host}:{closed.port}", Authorization=f"Bearer {TOKEN}")
        assert reply.status == (200 if known else 421)


def test_class_names_are_no_markup(finished_run: Path, tmp_path: Path) -> None:
    """On the page they are text; in JSON they are as they are."""
    import dataclasses

    import sharpzo_mlx as sz

    names = ("<script>alert(1)</script>", "\u202eevil", 'a"b&\n')
    plain = sz.Run.load(finished_run)
    run = sz.Run(finished_run, plain.config, dataclasses.replace(plain.record, class_names=names))
    run.__dict__["prompt"] = dataclasses.replace(plain.prompt, class_names=names)
    with serving(run) as server:
        page = server.get("/").body.decode()
        assert "<script>alert" not in page
        assert "<bdi>&lt;script&gt;alert(1)&lt;/script&gt;</bdi>" in page
        assert "<bdi>\u202eevil</bdi>" in page
        assert [one["label"] for one in server.get("/classes").json["classes"]] == list(names)


def start(*words: str | Path, **variables: str) -> subprocess.Popen[str]:
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    code += "from sharpzo_mlx.cli.main import main; main()"
    command = [sys.executable, "-c", code, "serve", *map(str, words)]
    environment = {**os.environ, **variables}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def read_address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    lines = [process.stdout.readline(), process.stdout.readline()]
    assert lines[0].startswith("serving "), process.communicate()
    return lines[1].strip()


def test_the_command_prints_its_address_and_ends_at_ctrl_c(finished_run: Path) -> None:
    with start(finished_run, "--port", "0") as process:
        port = int(re.fullmatch(r"http://127\.0\.0\.1:(\d+)/", read_address(process))[1])  # type: ignore[index]
        assert Served(port).get("/health").json["status"] == "ok"
        with socket.create_connection(("127.0.0.1", port)):  # a client that says nothing does not hold it up
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.parametrize("given", [None, "0123456789abcdef~"])
def test_beyond_the_loopback_the_command_has_a_token(finished_run: Path, given: str | None) -> None:
    variables = {"SHARPZO_MLX_TOKEN": given or ""}
    with start(finished_run, "--port", "0", "--host", "0.0.0.0", **variables) as process:
        address = read_address(process)
        port, token = re.fullmatch(r"http://[^/]+:(\d+)/\?token=(.+)", address).groups()  # type: ignore[union-attr]
        assert given in (None, token)
        assert len(token) >= 16
        assert Served(int(port)).get("/health").status == 401
        assert Served(int(port)).get("/health", Authorization=f"Bearer {token}").status == 200
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == ("", "")


def test_a_port_that_is_taken_is_one_line(refused: Callable[..., str], finished_run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = refused("serve", finished_run, "--port", str(port))
    assert f"port {port}: another program uses it" in line
    assert "--port" in line


def test_what_cannot_be_served_is_one_line(
    refused: Callable[..., str], finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "not an address" in refused("serve", finished_run, "--port", "0", "--host", "no such host")
    assert "no run here" in refused("serve", tmp_path, "--port", "0")
    monkeypatch.setenv("SHARPZO_MLX_TOKEN", "short")
    assert "SHARPZO_MLX_TOKEN: give 16" in refused("serve", finished_run, "--port", "0")


def test_without_the_extra_one_line_says_what_to_install(
    refused: Callable[..., str], finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    for name in [name for name in sys.modules if name.startswith("sharpzo_mlx.serving")]:
        monkeypatch.delitem(sys.modules, name)
    assert 'pip install "sharpzo-mlx[serve]"' in refused("serve", finished_run)


def test_the_page_is_opened_where_asked(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What opens it here reads it, as a browser in the terminal does, and presses Ctrl-C."""
    opened: list[Reply] = []

    def open_page(address: str) -> None:
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/", address)
        opened.append(Served(int(found[1])).get("/"))  # type: ignore[index]
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("webbrowser.open", open_page)
    assert main.run(["serve", str(finished_run), "--port", "0", "--open"]) == 0
    assert b"Drop images here" in opened[0].body
