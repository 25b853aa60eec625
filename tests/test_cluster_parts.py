"""The parts of a cluster that need no second process: addresses, certificates, records, passports and the guard."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from cluster_workers import Here
from comparison_runs import CONFIG

import sharpzo_mlx as sz
from sharpzo_mlx.cluster import guard, passport, records
from sharpzo_mlx.cluster.address import read_address
from sharpzo_mlx.cluster.certificates import make_certificate, security_of
from sharpzo_mlx.cluster.work import Answer, Envelope, Models, Nap, Workplace
from sharpzo_mlx.datasets.folder import read_folder
from sharpzo_mlx.features.blocks import Batching
from sharpzo_mlx.features.cache import digest
from sharpzo_mlx.features.extract import encode, name_model
from sharpzo_mlx.features.pieces import FilePiece, encode_piece
from sharpzo_mlx.runtime.helpers import helped_by


def test_an_address_says_where_and_how() -> None:
    assert read_address("local:3").workers == 3
    assert read_address("localhost:8786").url == "tcp://localhost:8786"
    assert read_address("[::1]:8786").is_loopback
    assert read_address("tcp://10.0.0.2:8786", insecure=True).url == "tcp://10.0.0.2:8786"
    assert read_address("mac-a.local:1", certificate=Path("c.pem")).url == "tls://mac-a.local:1"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("local:0", "from 1 to 256"),
        ("local:many", "from 1 to 256"),
        ("mac-a.local", "HOST:PORT"),
        ("http://a:80", "HOST:PORT"),
        ("a b:80", "HOST:PORT"),
        ("127.0.0.1:70000", "HOST:PORT"),
        ("127.0.0.1:0", "HOST:PORT"),
        ("mac-a.local:8786", "--make-certificate"),
        ("0.0.0.0:8786", "other machines could connect"),
        ("tls://127.0.0.1:8786", "--certificate"),
    ],
)
def test_what_is_no_address_or_lets_strangers_in_is_refused(words: str, complaint: str) -> None:
    with pytest.raises(sz.UserError, match=complaint):
        read_address(words)


def test_a_certificate_is_its_owners_and_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "cluster.pem"
    make_certificate(path)
    assert path.stat().st_mode & 0o777 == 0o600
    address = read_address("10.0.0.2:8786", certificate=path)
    assert security_of(address).require_encryption
    before = path.read_bytes()
    with pytest.raises(sz.UserError, match="exists already"):
        make_certificate(path)
    assert path.read_bytes() == before
    path.chmod(0o644)
    with pytest.raises(sz.UserError, match="chmod 600"):
        security_of(address)
    path.write_text("no certificate")
    with pytest.raises(sz.UserError, match=r"cluster\.pem: holds no certificate"):
        security_of(address)
    with pytest.raises(sz.UserError, match="no such file"):
        security_of(replace(address, certificate=tmp_path / "gone.pem"))


@dataclass(frozen=True)
class Sample:
    """A record of every kind of field."""

    name: str
    rows: np.ndarray
    parts: list[Nap]
    reasons: dict[int, str]


def test_a_record_comes_back_as_it_was() -> None:
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::-1]
    sample = Sample("é", rows, [Nap(0.5, 3)], {2: "broken"})
    found = records.read(records.write(sample), Sample)
    assert (found.name, found.parts, found.reasons) == (sample.name, sample.parts, sample.reasons)
    assert found.rows.dtype == np.float32
    np.testing.assert_array_equal(found.rows, rows)


def test_nothing_but_the_declared_record_is_read() -> None:
    with pytest.raises(ValueError, match="Expected"):
        records.read(records.write({"seconds": "long", "size": 1}), Nap)
    with pytest.raises(ValueError, match="do not fit"):
        records.read(records.write(["float32", [10**6], b"1234"]), np.ndarray)
    with pytest.raises(ValueError, match="not sent"):
        records.read(records.write(["object", [1], b"12345678"]), np.ndarray)
    with pytest.raises(TypeError, match="cannot be sent"):
        records.write({"call": print})
    with pytest.raises(TypeError, match="cannot be sent"):
        records.write(np.array([print], dtype=object))


def test_a_passport_names_the_first_difference() -> None:
    own = passport.issue()
    assert passport.disagreement(own, own) == ""
    assert "pip install mlx==9.9" in passport.disagreement({**own, "mlx": "9.9"}, own)
    assert "sources" in passport.disagreement({**own, "sources": "0"}, own)
    assert "their numbers differ" in passport.disagreement({**own, "platform": "darwin arm64"}, own)
    assert passport.disagreement(own, {}) != ""


def work(envelope: Envelope, models: Models | None = None) -> Answer:
    """What a worker answers."""
    return Workplace("here", models or Models([])).do(records.write(envelope))


def test_a_worker_does_registered_work_only() -> None:
    nap = records.write(Nap(0.0, 3))
    assert records.read(work(Envelope("nap", "", b"", nap)).result, bytes) == bytes(3)
    assert "this version knows" in work(Envelope("os.system", "", b"", nap)).error
    assert "ValidationError" in work(Envelope("encode", "", b"", nap)).error
    assert work(Envelope("nap", "", b"", b"\xc1")).error


def test_a_worker_without_the_model_says_what_it_has(tiny_model: Path, tmp_path: Path) -> None:
    key = name_model(sz.load(tiny_model)).key
    nap = records.write(Nap(0.0, 1))
    assert work(Envelope("nap", key, str(tiny_model).encode(), nap)).result  # where the leader has it
    assert work(Envelope("nap", key, b"gone", nap), Models([sz.load(tiny_model)])).result  # a copy of its own
    assert "no model" in work(Envelope("nap", key, b"gone", nap)).refusal
    assert "another version" in work(Envelope("nap", "0" * 32, str(tiny_model).encode(), nap)).refusal


def test_a_piece_is_read_from_the_folder_or_from_what_was_sent(tiny_model: Path, photos: Path) -> None:
    clip = sz.load(tiny_model)
    paths = sorted(photos.rglob("*.png"))[:5] or sorted(photos.rglob("*.jpg"))[:5]
    piece = FilePiece([bytes(path) for path in paths], [digest(path) for path in paths], Batching([0] * 5, 5, 5), [])
    seen = encode_piece(clip, piece)
    assert (seen.seen, sorted(seen.positions)) == (True, list(range(5)))
    elsewhere = replace(piece, paths=[b"/nowhere/" + path.name.encode() for path in paths])
    assert not encode_piece(clip, elsewhere).seen
    sent = encode_piece(clip, replace(elsewhere, contents=[path.read_bytes() for path in paths]))
    np.testing.assert_array_equal(sent.rows, seen.rows)
    changed = replace(piece, digests=[bytes(32), *piece.digests[1:]])
    assert not encode_piece(clip, changed).seen


class Stranger:
    """What an attacker's pickle may hold."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return eval, ("1 + 1",)


def test_the_guard_lets_no_strangers_name_through_in_its_threads() -> None:
    found: dict[str, object] = {}

    def read(name: str) -> None:
        try:
            found[name] = pickle.loads(pickle.dumps(Stranger()))
        except pickle.UnpicklingError as error:
            found[name] = error

    guard.install(("guarded-thread",))
    for name in ("guarded-thread-1", "another-thread"):
        thread = threading.Thread(target=read, args=(name,), name=name)
        thread.start()
        thread.join()
    assert "builtins.eval" in str(found["guarded-thread-1"])
    assert found["another-thread"] == 2


def test_without_the_option_dask_is_not_imported(tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from sharpzo_mlx.cli.main import run\n"
        f"assert run(['encode', {str(photos)!r}, '--model', {str(tiny_model)!r}]) == 0\n"
        "assert not {'dask', 'distributed', 'cryptography'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_long_methods_are_given_out_first(tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    helper = Here()
    encode(sz.load(tiny_model), read_folder(photos))  # in the cache, so that cells alone are given out
    with helped_by(helper):
        found = sz.compare(
            sz.load(tiny_model), photos, CONFIG, methods="ncm,gda,bbt,blackvip", seeds=2, output=tmp_path / "c"
        )
    assert not found.failed
    ranks = {"blackvip": 0, "bbt": 1, "ncm": 2, "gda": 2, "zero-shot": 2}
    assert [ranks[piece.method] for piece in helper.pieces] == [0, 0, 1, 1, 2, 2, 2, 2, 2, 2]
