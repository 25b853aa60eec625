"""Carry out steps one after the other: each has an outcome, and one that fails does not keep the next from its turn.

>>> [carry_out(Step("a product", lambda _: Passed("right", {"error": 0.0})), None).outcome]  # doctest: +SKIP
['ok']
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import mlx.core as mx

from sharpzo_mlx.doctor.workspace import Workspace

Number: TypeAlias = float | int | bool | str | None
OK, FAILED, NOT_HERE, STOPPED = "ok", "failed", "does not apply", "stopped"


class NotHere(Exception):
    """A step that this machine cannot take; the message says why."""


@dataclass(frozen=True)
class Answer:
    """What a step found: words, figures by their names, and whether it is as it should be."""

    words: str
    numbers: dict[str, Number] = field(default_factory=dict)
    right: bool = True


@dataclass(frozen=True)
class Step:
    """One step: its name in a few words, and what it does in a workspace."""

    name: str
    work: Callable[[Workspace], Answer]


@dataclass(frozen=True)
class Started:
    """A step begins: its name, its number from 1, and the number of all steps."""

    name: str
    number: int
    of: int


@dataclass(frozen=True)
class Result:
    """The result of one step.

    Attributes:
        name: the step's name.
        outcome: "ok", "failed", "does not apply" or "stopped" (by the user).
        words: one line.
        seconds: the time that it took.
        numbers: figures by their names.
        notices: what the user of the step would have been told.
    """

    name: str
    outcome: str
    words: str
    seconds: float
    numbers: dict[str, Number]
    notices: tuple[str, ...] = ()


def carry_out(step: Step, workspace: Workspace) -> Result:
    """Take one step; whatever it raises becomes its outcome, Ctrl-C too."""
    started = time.monotonic()
    numbers: dict[str, Number] = {}
    notices: list[str] = []
    try:
        with _collect(notices):
            answer = step.work(workspace)
        outcome, words, numbers = OK if answer.right else FAILED, answer.words, answer.numbers
    except NotHere as reason:
        outcome, words = NOT_HERE, str(reason)
    except KeyboardInterrupt:
        outcome, words = STOPPED, "interrupted"
    except Exception as error:  # the next steps must run, whatever is wrong with this one
        outcome, words = FAILED, f"{type(error).__name__}: {' '.join(str(error).split())}"
    return Result(step.name, outcome, words, time.monotonic() - started, numbers, tuple(notices))


@contextmanager
def _collect(notices: list[str]) -> Iterator[None]:
    """Keep the library's notices in a list, in place of showing them."""

    def keep(record: logging.LogRecord) -> bool:
        notices.append(record.getMessage())
        return False

    logger = logging.getLogger("sharpzo_mlx")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def take_steps(steps: Sequence[Step], workspace: Workspace) -> Iterator[Started | Result]:
    """Take the steps in their order; yield Started before and Result after each, and end after one that was stopped."""
    for number, step in enumerate(steps, 1):
        yield Started(step.name, number, len(steps))
        result = carry_out(step, workspace)
        mx.clear_cache()
        yield result
        if result.outcome == STOPPED:
            return
