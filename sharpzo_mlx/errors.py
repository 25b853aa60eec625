"""Tell the user what is wrong, in one line that names the file or value and the remedy.

The command line prints a UserError without a traceback and exits with code 2; in a script it is an ordinary exception.
A notice is what the user should know while work goes on; the command line prints it as `note: ...`.

>>> raise UserError("photos/: no class folders; put the images of each class in a folder of its own")
Traceback (most recent call last):
sharpzo_mlx.errors.UserError: photos/: no class folders; put the images of each class in a folder of its own
"""

from __future__ import annotations

import logging


class UserError(Exception):
    """Input that cannot be used; the message is one line and says what to do."""


def notify(line: str) -> None:
    """Give the user one line of notice, as a warning of the logger `sharpzo_mlx`."""
    logging.getLogger("sharpzo_mlx").warning(line)
