"""Settings in a TOML file: what `--config` reads and what every run writes, so that it can be run again.

Groups are tables, the text "none" stands for a missing value, and settings that are left out keep their defaults.

>>> print(as_toml(TuneConfig(shots=16)).splitlines()[1])
shots = 16
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from sharpzo_mlx.config import TuneConfig, flatten
from sharpzo_mlx.errors import UserError, remedy, why
from sharpzo_mlx.options import NONE
from sharpzo_mlx.reading import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SETTINGS = "config.toml"
LARGEST = 1 << 20  # bytes of a settings file
_HEADING = "# run again with: sharpzo-mlx tune DATASET --config FILE"


def as_toml(config: TuneConfig) -> str:
    """Return the text of a settings file."""
    return f"{_HEADING}\n{tomli_w.dumps(_plain(config.to_json(), TuneConfig().to_json()))}"


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings of a file by name.

    Raises:
        UserError: the file cannot be read or is not TOML. Names and values are checked by TuneConfig.
    """
    try:
        found = list(flatten(tomllib.loads(read_text(path, LARGEST))))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise UserError(f"{path}: no such settings file; a run has one, {SETTINGS}") from error
    except OSError as error:
        raise UserError(f"{path}: {why(error)}; {remedy(error, 'name a settings file')}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a TOML file ({error}); write NAME = VALUE, texts in quotes") from error
    settings = dict(found)
    if len(settings) < len(found):
        twice = next(name for name in settings if [own for own, _ in found].count(name) > 1)
        raise UserError(f"{path}: {twice} is there twice; keep one")
    return settings


def _plain(content: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content without missing values, but for those whose default is a value."""
    kept: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            kept[name] = _plain(value, default[name])
        elif value is not None:
            kept[name] = value
        elif default.get(name) is not None:
            kept[name] = NONE
    return kept
