"""Tell the user what is wrong, in one line that names the file or value and the remedy.

The command line prints a UserError without a traceback and exits with code 2; in a script it is an ordinary exception.
A notice is what the user should know while work goes on; the command line prints it as `note: ...`.

>>> raise UserError("photos/: no class folders; put the images of each class in a folder of its own")
Traceback (most recent call last):
sharpzo_mlx.errors.UserError: photos/: no class folders; put the images of each class in a folder of its own
"""

from __future__ import annotations

import errno
import logging
import re
import sys

GPU_ERRORS = ("[METAL]", "[metal::malloc]", "[malloc]")  # how MLX's errors of a GPU and its memory begin
_STEERING = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
PRIVACY = "allow it for your terminal in System Settings, Privacy & Security, Files and Folders"


class UserError(Exception):
    """Input that cannot be used; the message is one line and says what to do."""


def is_gpu_error(error: Exception) -> bool:
    """Return whether MLX reports that the GPU gave up a computation, or that memory for an array was refused."""
    return isinstance(error, RuntimeError) and str(error).startswith(GPU_ERRORS)


def why(error: OSError) -> str:
    """Return the system's reason for an error in small letters, such as "permission denied"."""
    return (error.strerror or str(error)).lower()


def remedy(error: OSError, otherwise: str) -> str:
    """Return what lets a program at a file or folder: on a Mac EPERM is a refusal of privacy, not of permissions.

    Args:
        error: what the system said.
        otherwise: the remedy of every other error.
    """
    return PRIVACY if sys.platform == "darwin" and error.errno == errno.EPERM else otherwise


def shown(value: object, most: int = 60) -> str:
    """Return a value of a stranger's file for an error: short, in one line, and what is nested by its kind."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, (list, tuple)):
        few = len(value) <= 4 and not any(isinstance(item, (dict, list, tuple)) for item in value)
        return f"[{', '.join(shown(item, 20) for item in value)}]" if few else f"a list of {len(value)}"
    if isinstance(value, int) and abs(value) >= 10**most:
        return "a number of very many digits"  # Python refuses to print the largest
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def one_line(text: str, most: int = 80) -> str:
    """Return a text from a stranger's file with a space for each character that cannot be printed.

    Of a longer one the first `most` characters are left, and three dots.
    """
    line = "".join(character if character.isprintable() else " " for character in text[:most])
    return f"{line}..." if len(text) > most else line


def escape(text: str) -> str:
    """Return a line to print, with escapes for characters that steer a terminal, begin a line or turn its direction.

    A file or a class of that name would otherwise write lines of its own, such as errors.

    >>> escape("cat" + chr(10) + "error: none")
    'cat\\\\nerror: none'
    """
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def notify(line: str) -> None:
    """Give the user one line of notice, as a warning of the logger `sharpzo_mlx`."""
    logging.getLogger("sharpzo_mlx").warning(line)
