"""The package's description on PyPI: the README as it reads without the repository beside it.

A link that leads nowhere there, to a file or a heading, becomes its text in italics; where it stands alone in brackets,
its path. What the README installs from the current folder is installed by its name. All else stands in pyproject.toml.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import setup

LINK = r"\[([^\]]+)\]\((?!https://)([^)\s#]*)[^)\s]*\)"
HERE = r"((?:pip|uv\s+tool)\s+install) \.(?=[\s`])"
WHERE = "The files that this text names (`docs/`, `tests/`, `benchmarks/`) lie in the repository, not in the package."


def describe(readme: str) -> str:
    """Return the description that PyPI shows."""
    text = re.sub(rf"\({LINK}\)", r"(`\2`)", readme)
    text = re.sub(LINK, r"*\1*", text)
    text = re.sub(HERE, r"\1 sharpzo-mlx", text)
    return f"{text.rstrip()}\n\n{WHERE}\n"


if __name__ == "__main__":
    readme = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    setup(long_description=describe(readme), long_description_content_type="text/markdown")
