"""The process of a worker that `local:N` starts: `python -m sharpzo_mlx.cluster.local_worker URL CERTIFICATE`.

It ends when its standard input does, which is a pipe from the leader.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from sharpzo_mlx.cluster.address import read_address
from sharpzo_mlx.cluster.worker import WorkerSettings, serve
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.runtime.threads import sharers


def _end_with_leader() -> None:
    while os.read(0, 1024):
        pass
    os._exit(0)  # a piece that is being done is of no use to anybody


def main(arguments: list[str]) -> int:
    """Work for the leader at an address until it goes; return the exit code."""
    url, certificate = arguments
    threading.Thread(target=_end_with_leader, daemon=True).start()
    settings = WorkerSettings(sharers=sharers(), once=True)
    try:
        serve(read_address(url, certificate=Path(certificate)), [], settings, say=lambda line: None)
    except UserError as error:
        print(f"error: a worker: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
