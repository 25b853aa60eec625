"""The documents, and the commands and Python in them, each with the place where it stands and why it is not run."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    {*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md"), *ROOT.glob("examples/*.md")}
)
PROGRAM = "sharpzo-mlx"
SHELL_FENCES = ("", "sh", "bash", "shell", "console")
MARK = re.compile(r"<!-- not run: (.+?) -->\s*\Z", re.DOTALL)
OPERATORS = "|&;<>"


@dataclass(frozen=True)
class Snippet:
    """One line of a shell, or one block of Python.

    Attributes:
        page: the document, relative to the repository.
        line: its first line there, from 1.
        code: the line or the block.
        reason: what the mark before its block says, `<!-- not run: REASON -->`, or None.
    """

    page: str
    line: int
    code: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Block:
    """A block of code: the language of its fence (empty if it is indented), its first line, and its lines."""

    language: str
    line: int
    lines: tuple[str, ...]
    reason: str | None


def blocks(text: str) -> list[Block]:
    """Return the code blocks of a Markdown text, fenced and indented ones."""
    found: list[Block] = []
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        before = MARK.search("\n".join(lines[max(0, at - 6) : at]))
        reason = " ".join(before[1].split()) if before else None
        if fence := re.match(r"\s*```(\w*)", lines[at]):
            end = next((i for i in range(at + 1, len(lines)) if lines[i].strip() == "```"), len(lines))
            found.append(Block(fence[1], at + 2, tuple(lines[at + 1 : end]), reason))
            at = end + 1
        elif lines[at].startswith("    "):
            end = next((i for i in range(at, len(lines)) if lines[i].strip() and lines[i][:4].strip()), len(lines))
            found.append(Block("", at + 1, tuple(line.strip() for line in lines[at:end]), reason))
            at = end
        else:
            at += 1
    return found


def commands(path: Path, program: str = PROGRAM) -> list[Snippet]:
    """Return the shell lines of a document that call a program; a line that ends in a backslash goes on."""
    found = []
    page = path.relative_to(ROOT).as_posix()
    for block in blocks(path.read_text(encoding="utf-8")):
        if block.language not in SHELL_FENCES:
            continue
        joined, start = "", 0
        for number, line in enumerate(block.lines):
            start = start if joined else number
            joined += line.strip().removeprefix("$ ")
            if joined.endswith("\\"):
                joined = joined[:-1]
                continue
            if program in joined and calls(joined, program):
                found.append(Snippet(page, block.line + start, joined, block.reason))
            joined = ""
    return found


def calls(line: str, program: str = PROGRAM) -> list[list[str]]:
    """Return the words after the program's name of each call in a shell line: behind pipes, `&&` and assignments too.

    >>> calls("find photos | NAME=1 sharpzo-mlx predict RUN -   # a list")
    [['predict', 'RUN', '-']]
    """
    lexer = shlex.shlex(line, posix=True, punctuation_chars=OPERATORS)
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:  # a quote that is not closed: prose or output, no command
        return []
    found: list[list[str]] = [[]]
    for word in words:
        if word.strip(OPERATORS):
            found[-1].append(word)
        else:
            found.append([])
    commands = [_without_assignments(part) for part in found]
    return [part[1:] for part in commands if part[:1] == [program]]


def is_plain(line: str) -> bool:
    """Say whether a line is one call alone, without a pipe, a redirection or an assignment."""
    return shlex.split(line, comments=True)[:1] == [PROGRAM] and not re.search(rf"[{OPERATORS}]", line.split(" #")[0])


def _without_assignments(words: list[str]) -> list[str]:
    start = next((i for i, word in enumerate(words) if not re.match(r"\w+=", word)), len(words))
    return words[start:]


def python_blocks(path: Path) -> list[Snippet]:
    """Return the Python of a document."""
    page = path.relative_to(ROOT).as_posix()
    found = [block for block in blocks(path.read_text(encoding="utf-8")) if block.language == "python"]
    return [Snippet(page, block.line, "\n".join(block.lines) + "\n", block.reason) for block in found]


def spoken_options(path: Path) -> list[tuple[str, str]]:
    """Return what stands in backticks in a document's prose and names options: `--top`, `evaluate --foreign`.

    Returns:
        The words before the first option (the command, or nothing), and each option.
    """
    text = path.read_text(encoding="utf-8")
    for block in blocks(text):
        text = text.replace("\n".join(block.lines), "") if block.language else text
    prose = re.sub(r"^ {4}.*$", "", text, flags=re.MULTILINE)
    found = []
    for code in re.findall(r"`([^`\n]+)`", prose):
        words = code.removeprefix(f"{PROGRAM} ").split()
        for word in words:
            if re.fullmatch(r"--[a-z][a-z-]*", word):
                found.append((words[0] if not words[0].startswith("-") else "", word))
    return found
