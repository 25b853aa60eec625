"""Open a cluster for the work of a block: the public `open_cluster`.

>>> with open_cluster("local:2"):  # doctest: +SKIP
...     run = sz.tune(clip, "photos/")
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sharpzo_mlx.cluster import check_extra
from sharpzo_mlx.cluster.address import read_address
from sharpzo_mlx.files import expand
from sharpzo_mlx.runtime.helpers import helped_by

if TYPE_CHECKING:
    from sharpzo_mlx.cluster.leader import Leader


@contextmanager
def open_cluster(address: str, *, certificate: str | Path | None = None, insecure: bool = False) -> Iterator[Leader]:
    """Let the workers of a cluster do what this thread gives out inside a block.

    `tune`, `evaluate`, `predict`, `compare` and `fill_cache` give out images to encode, `tune` the candidates of its
    search, and `compare` its methods. Each takes `cluster=ADDRESS` too, which opens a cluster for that call alone.

    Args:
        address: `local:N` for N workers on this machine; or `HOST:PORT`, where this process listens and workers that
            were started with `sharpzo-mlx worker HOST:PORT` connect, at any time.
        certificate: the file with certificate and key that the workers have too.
        insecure: whether an address that other machines reach is allowed without a certificate.

    Yields:
        The leader, with its `url` and the `count` of its workers.

    Raises:
        UserError: the extra is not installed, or the address or the certificate cannot be used.
    """
    place = expand(certificate) if certificate else None
    where = read_address(address, certificate=place, insecure=insecure)
    check_extra()
    from sharpzo_mlx.cluster.leader import Leader

    with Leader(where) as leader, helped_by(leader):
        yield leader
