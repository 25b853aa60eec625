"""The settings of dask that leader and workers use.

>>> SETTINGS["distributed.scheduler.allowed-failures"]
30
"""

from __future__ import annotations

from typing import Any

THREAD = "sharpzo-cluster"  # the leader's thread that reads the network
SEND_SECONDS = 0.001  # that a message waits for others to be sent together with
SETTINGS: dict[str, Any] = {
    "distributed.scheduler.allowed-failures": 30,  # workers that may be lost under one piece
    "distributed.scheduler.worker-ttl": "60 s",
    "distributed.scheduler.http.routes": [],  # no HTTP server is started; see `servers`
    "distributed.worker.http.routes": [],
    "distributed.worker.memory.target": False,  # results are small: nothing is written to disk
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": 0.85,
    "distributed.worker.profile.enabled": False,
    "distributed.comm.timeouts.connect": "10 s",
    "distributed.comm.timeouts.tcp": "30 s",  # without an answer a connection counts as lost
    "distributed.comm.retry.count": 2,
    "distributed.admin.large-graph-warning-threshold": "1 TB",
    "distributed.admin.system-monitor.gil.enabled": False,
}
