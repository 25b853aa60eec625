"""Check everything: lint, format, types, and all tests (with the wheel's contents, doctests and examples).

Every step runs, also after a failure, so that one run shows everything that is wrong; the exit code is 0 only
if all passed. The tests run in two processes with one BLAS thread each, but for those of the threads themselves.
They come last, and pytest's own summary line ends the output.

usage: python tests/check.py [--quick]     (--quick: no tests that train, build or start the demo)
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STATIC = {"lint": ["ruff", "check", "."], "format": ["ruff", "format", "--check", "."]}
if sys.version_info >= (3, 11):  # the types are those of NumPy's newest stubs, which Python 3.10 does not get
    STATIC["types"] = ["mypy"]
THREADS = "tests/test_cores.py"
ONE_BLAS_THREAD = {"OPENBLAS_NUM_THREADS": "1"}  # two processes with two threads each would wait for one another
TESTS = ["pytest", "-n", "2", "--dist", "loadfile", "--durations=10", "--ignore", THREADS]
QUICK_TESTS = ["tests/test_imports.py", "tests/test_files.py", "tests/test_cli.py", "tests/test_examples.py"]


def run_step(command: list[str], settings: dict[str, str]) -> tuple[bool, str]:
    """Run `python -m command` in the repository, passing its output on; return success and the last line.

    Args:
        command: the module and its arguments.
        settings: further environment variables.
    """
    last = ""
    with subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    return process.returncode == 0, last


def main(arguments: list[str]) -> int:
    """Run every step, print one summary, and return the exit code."""
    if set(arguments) - {"--quick"}:
        print(__doc__)
        return 2
    tests = {"tests": ["pytest", *QUICK_TESTS]} if arguments else {"threads": ["pytest", THREADS], "tests": TESTS}
    steps = {**STATIC, **tests}
    results, last = {}, ""
    for name, command in steps.items():
        print(f"== {name}: {' '.join(command)}", flush=True)
        start = time.perf_counter()
        passed, last = run_step(command, ONE_BLAS_THREAD if command is TESTS else {})
        results[name] = (
            passed,
            f"{name} {'passed' if passed else 'FAILED'} ({time.perf_counter() - start:.0f} s)",
        )
    print(f"\n== {', '.join(words for _, words in results.values())}")
    print(last)  # pytest's own summary
    return 0 if all(passed for passed, _ in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
