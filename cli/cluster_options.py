"""The options of commands that let other machines help, and the cluster that they name.

>>> @cloup.command()
... @cluster_options
... def show(): ...
>>> [parameter.name for parameter in show.params]
['cluster', 'certificate', 'insecure']
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import cloup

from sharpzo_mlx.cli.options import PATH
from sharpzo_mlx.errors import UserError

CLUSTER_HELP = "Share work with others: HOST:PORT or local:N."
CERTIFICATE_HELP = "File with the key and certificate that all machines have."
INSECURE_HELP = "Without a certificate, in a network where everybody is trusted."


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command, which then runs inside the cluster if one is named."""

    @wraps(command)
    def inside(*arguments: Any, cluster: str | None, certificate: Path | None, insecure: bool, **options: Any) -> Any:
        with _opened(cluster, certificate, insecure):
            return command(*arguments, **options)

    helped: Callable[..., Any] = inside
    # the help of `tune` has no line to spare: the last two are named by errors, by `worker --help` and by the guide
    for add in (
        cloup.option("--insecure", is_flag=True, hidden=True, help=INSECURE_HELP),
        cloup.option("--certificate", type=PATH, metavar="FILE", hidden=True, help=CERTIFICATE_HELP),
        cloup.option("--cluster", metavar="ADDRESS", help=CLUSTER_HELP),
    ):
        helped = add(helped)
    return helped


@contextmanager
def _opened(cluster: str | None, certificate: Path | None, insecure: bool) -> Iterator[None]:
    if cluster is None:
        if certificate or insecure:
            raise UserError(f"{'--certificate' if certificate else '--insecure'}: is for --cluster; name one")
        yield
        return
    from sharpzo_mlx.cluster.opening import open_cluster

    with open_cluster(cluster, certificate=certificate, insecure=insecure):
        yield
