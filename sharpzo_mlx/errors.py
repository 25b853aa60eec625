"""Errors that a user can mend: one line that names the file or value and the remedy.

The command line prints them without a traceback and exits with 2; in a script they are ordinary exceptions.

>>> raise UserError("photos/: no class folders; put the images of each class in a folder of its own")
Traceback (most recent call last):
sharpzo_mlx.errors.UserError: photos/: no class folders; put the images of each class in a folder of its own
"""

from __future__ import annotations


class UserError(Exception):
    """What the user gave cannot be used; the message is one line and says what to do."""
