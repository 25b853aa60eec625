"""Read where a cluster is: `local:N` for N workers on this machine, or the address on which the leader listens.

An address is `HOST:PORT`, with tls:// or tcp:// in front if it is to be said. Without a certificate only the loopback
is allowed, which other machines cannot reach, unless `insecure` is said.

>>> read_address("local:2").workers
2
>>> read_address("127.0.0.1:8786").url
'tcp://127.0.0.1:8786'
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from sharpzo_mlx.errors import UserError

LOCAL = "local:"
MOST_LOCAL = 256
_FORM = re.compile(r"(?:(?P<scheme>tcp|tls)://)?(?P<host>\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5})")


@dataclass(frozen=True)
class Address:
    """Where a cluster is.

    Attributes:
        scheme: "tcp" or "tls".
        host: the leader's name or address; an IPv6 address has brackets.
        port: its port; 0 for any free one.
        workers: for `local:N` the number of workers to start here, else 0.
        certificate: the file with certificate and key; None without TLS, and for `local:N`, which makes its own.
    """

    scheme: str
    host: str
    port: int
    workers: int = 0
    certificate: Path | None = None

    @property
    def url(self) -> str:
        """The address as dask writes it."""
        return f"{self.scheme}://{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether other machines cannot reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False


def read_address(words: str, *, certificate: Path | None = None, insecure: bool = False) -> Address:
    """Return the address that a user wrote.

    Args:
        words: `local:N`, or `HOST:PORT` with an optional tls:// or tcp:// in front.
        certificate: the file with certificate and key.
        insecure: whether an address that other machines reach is allowed without a certificate.

    Raises:
        UserError: it is no address, contradicts the other options, or would let strangers in.
    """
    if words.startswith(LOCAL):
        if certificate or insecure:
            raise UserError(f"{words}: makes its own certificate; leave out --certificate and --insecure")
        return Address("tls", "127.0.0.1", 0, workers=_read_count(words))
    found = _FORM.fullmatch(words)
    if not found or not 0 < int(found["port"]) < 65536:
        raise UserError(f"cluster {words!r}: write local:N or HOST:PORT, such as local:2 or mac-a.local:8786")
    scheme = found["scheme"] or ("tls" if certificate else "tcp")
    address = Address(scheme, found["host"], int(found["port"]), certificate=certificate)
    _check_security(address, insecure)
    return address


def _read_count(words: str) -> int:
    count = words.removeprefix(LOCAL)
    if not re.fullmatch(r"[0-9]{1,4}", count) or not 1 <= int(count) <= MOST_LOCAL:
        raise UserError(f"cluster {words!r}: name a number of workers from 1 to {MOST_LOCAL}, such as local:2")
    return int(count)


def _check_security(address: Address, insecure: bool) -> None:
    make = "make a certificate: sharpzo-mlx worker --make-certificate cluster.pem"
    if address.scheme == "tls" and not address.certificate:
        raise UserError(f"{address.url}: needs --certificate FILE; {make}")
    if address.scheme == "tcp" and address.certificate:
        raise UserError(f"{address.url}: tcp:// uses no certificate; write tls:// or leave out --certificate")
    if address.scheme == "tcp" and not address.is_loopback and not insecure:
        raise UserError(
            f"{address.url}: other machines could connect and give work; {make} and name it with --certificate, "
            "or say --insecure in a network where everybody is trusted (in Python: open_cluster takes both)"
        )
