"""Measure `serve` under load: clients that send one image after the other, their waits, and the server's memory.

The server is a process of its own, the clients are threads of this one, which share the machine's cores with it. Each
client keeps its connection and sends the next image as soon as the answer to the last is there.

usage: python benchmarks/serve_load.py RUN IMAGES [--clients 50] [--seconds 60] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

SERVE = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
SERVE += "from sharpzo_mlx.cli.main import main; main()"
QUERY = "/predict?top=5&reject=0.05&neighbours=4"
SETTLED = 0.25  # share of the time after which memory is compared


@dataclass
class Load:
    """What was measured: seconds of each answer, other answers than 200, and MB of the server over time."""

    clients: int
    seconds: float
    waits: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        """Return the figures of the table."""
        settled = self.megabytes[int(SETTLED * len(self.megabytes)) :]
        part = max(1, len(settled) // 4)
        cuts = statistics.quantiles(self.waits, n=100)
        return {
            "clients": self.clients,
            "seconds": self.seconds,
            "answers": len(self.waits),
            "errors": len(self.errors),
            "answers_a_second": len(self.waits) / self.seconds,
            "median_ms": 1000 * cuts[49],
            "p95_ms": 1000 * cuts[94],
            "p99_ms": 1000 * cuts[98],
            "longest_ms": 1000 * max(self.waits),
            "first_mb": statistics.mean(settled[:part]),
            "last_mb": statistics.mean(settled[-part:]),
            "most_mb": max(self.megabytes),
        }


@contextmanager
def served(run: Path) -> Iterator[tuple[int, int]]:
    """Serve a run in a process, and yield its number and the port."""
    command = [sys.executable, "-c", SERVE, "serve", str(run), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        port = int(process.stdout.readline().rstrip("/\n").rpartition(":")[2])
        try:
            yield process.pid, port
        finally:
            process.send_signal(signal.SIGINT)


def resident(process: int) -> float:
    """Return the MB that a process holds in memory."""
    if os.path.exists("/proc/self/statm"):
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    found = subprocess.run(["ps", "-o", "rss=", "-p", str(process)], capture_output=True, text=True, check=True)
    return int(found.stdout) * 1024 / 1e6


def send_images(load: Load, port: int, images: Sequence[bytes], start: int, end: float) -> None:
    """Send one image after the other until the end."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while time.perf_counter() < end:
        begun = time.perf_counter()
        try:
            connection.request("POST", QUERY, images[start % len(images)], {"Content-Type": "image/jpeg"})
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                load.errors.append(f"{answer.status} {body[:200]!r}")
        except (OSError, http.client.HTTPException) as error:
            load.errors.append(repr(error))
            connection.close()
        load.waits.append(time.perf_counter() - begun)
        start += 1
    connection.close()


def measure(run: Path, images: Sequence[bytes], *, clients: int, seconds: float) -> Load:
    """Let clients send images for some time."""
    load = Load(clients, seconds)
    with served(run) as (process, port):
        end = time.perf_counter() + seconds
        work = [(load, port, images, 7 * number, end) for number in range(clients)]
        threads = [threading.Thread(target=send_images, args=given) for given in work]
        for thread in threads:
            thread.start()
        while time.perf_counter() < end:
            load.megabytes.append(resident(process))
            time.sleep(min(1.0, seconds / 20))
        for thread in threads:
            thread.join()
    return load


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path, help="a folder of JPEG files, also in the folders inside")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    images = [path.read_bytes() for path in sorted(given.images.rglob("*.jpg"))]
    load = measure(given.run, images, clients=given.clients, seconds=given.seconds)
    for name, value in load.summary().items():
        print(f"| {name.replace('_', ' ')} | {value:.{1 if value % 1 else 0}f} |")
    for error in sorted(set(load.errors))[:5]:
        print(error)
    if given.output:
        given.output.write_text(json.dumps(asdict(load)) + "\n")


if __name__ == "__main__":
    main()
