"""Hooks of MkDocs that make the site from the same files that the repository shows: `mkdocs build --strict`.

- The navigation is the index, docs/README.md: its headings are the sections, its links the pages. A page that is not
  in the index is a warning, which ends a strict build.
- Pages outside of docs/ (`OUTSIDE`) are part of the site, and links to and from them are changed to fit. Of a link to
  another file of the repository the text stays.
- The reference of Python lists every public name of the package.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = {  # file of the repository -> page of the site
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "LICENSE": "LICENSE.md",
    "benchmarks/README.md": "benchmarks.md",
}
LAST_SECTION = "Project"
PUBLIC_NAMES = "<!-- the site lists every public name here -->"
LINK = re.compile(r"(\[[^\]]*\]\()([^)\s#]+)((?:#[^)\s]*)?\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Make the navigation from the index, and show the start page first."""
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    sections: list[dict[str, list[dict[str, str]]]] = []
    for line in index.splitlines():
        if line.startswith("## "):
            sections.append({line[3:]: []})
        elif sections and (entry := re.match(r"- \[(.+?)\]\(([^)#]+)\)", line)):
            (pages,) = sections[-1].values()
            pages.append({entry[1].replace("`", ""): page_of(entry[2], "docs/README.md")})
    project = [{title_of(name): page} for name, page in OUTSIDE.items()]
    config.nav = [{"Home": "README.md"}, *sections, {LAST_SECTION: project}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside of docs/."""
    for name, page in OUTSIDE.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(
            File.generated(config, page, content=text if name.endswith(".md") else f"# {name.title()}\n\n{text}")
        )
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Change links that leave docs/ or come from outside of it, and fill in the public names."""
    source = source_of(page.file.src_uri)
    start = posixpath.dirname(page.file.src_uri) or "."

    def relink(match: re.Match[str]) -> str:
        if not (ROOT / posixpath.dirname(source) / match[2]).exists():
            return match[0]  # no file of the repository; MkDocs warns of it if it is a link
        if page_of(match[2], source).startswith("../"):
            return match[1][1:-2]  # the text alone: the file is no page of the site, such as a workflow
        return match[1] + posixpath.relpath(page_of(match[2], source), start) + match[3]

    return LINK.sub(relink, markdown).replace(PUBLIC_NAMES, list_public_names())


def source_of(page: str) -> str:
    """Return the file of the repository that a page of the site is made from."""
    if page.startswith("examples/"):
        return page.replace(".md", ".ipynb")
    return {made: name for name, made in OUTSIDE.items()}.get(page, f"docs/{page}")


def page_of(target: str, source: str) -> str:
    """Return the page of the site that a link of a file in the repository leads to.

    Args:
        target: the link, relative to the file, without an anchor.
        source: the file, relative to the repository.
    """
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    if path in OUTSIDE:
        return OUTSIDE[path]
    if path.startswith("examples/"):
        return path.replace(".ipynb", ".md")
    return posixpath.relpath(path, "docs")


def title_of(name: str) -> str:
    """Return the title of a page in the navigation: its first heading, or its name."""
    heading = re.match(r"# (.+)", (ROOT / name).read_text(encoding="utf-8"))
    return heading[1] if heading else name.title()


def list_public_names() -> str:
    """Return a block of mkdocstrings for each public name: what is called first, then what that takes and returns."""
    import sharpzo_mlx

    names = sorted(sharpzo_mlx.__all__, key=lambda name: (name[0].isupper(), name))
    return "\n\n".join(f"::: sharpzo_mlx.{name}" for name in names)
