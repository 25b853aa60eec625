"""The site: it is built without a warning, its links lead somewhere, and it needs nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from chromium import browsing
from documents import ROOT
from file_server import serve_files

import sharpzo_mlx

LOADING = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "object": "data"}


class Reader(HTMLParser):
    """Collects what a page links to, what it loads, and the ids that a link can name."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in LOADING and LOADING[tag] in given:
            self.loads.append(given[LOADING[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as CONTRIBUTING says."""
    place = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(place)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    return place


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Reader]:
    return {path: Reader(path) for path in sorted(site.rglob("*.html"))}


def test_every_document_is_a_page(site: Path, pages: dict[Path, Reader]) -> None:
    documents = [path.relative_to(ROOT / "docs").with_suffix(".html") for path in ROOT.glob("docs/**/*.md")]
    names = {"README.html": "index.html"}
    assert {site / names.get(str(path), path) for path in documents} <= set(pages)
    assert {"CONTRIBUTING.html", "SECURITY.html", "CHANGELOG.html"} <= {path.name for path in pages}
    assert not list(site.rglob("*.py"))


def test_links_lead_to_pages_and_headings(site: Path, pages: dict[Path, Reader]) -> None:
    broken = []
    for path, page in pages.items():
        for link in [*page.links, *page.loads]:
            parts = urlsplit(link)
            if parts.scheme or path.name == "404.html":  # its links begin at the root of a server
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            known = pages[target].ids if target in pages else set()
            if not target.is_file() or (parts.fragment and unquote(parts.fragment) not in known):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Reader]) -> None:
    loads = {(path.name, load) for path, page in pages.items() for load in page.loads}
    assert not {one for one in loads if "//" in one[1]}
    for path in site.rglob("*.css"):
        text = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", text), path


def test_every_public_name_is_described(site: Path, pages: dict[Path, Reader]) -> None:
    ids = pages[site / "reference" / "python.html"].ids
    assert {f"sharpzo_mlx.{name}" for name in sharpzo_mlx.__all__} <= ids


def test_a_browser_searches_and_asks_nobody_else(site: Path, tmp_path: Path) -> None:
    with serve_files(site) as address, browsing(tmp_path) as page:
        page.open(f"{address}/index.html")
        assert page.run("document.querySelectorAll('.md-tabs__link').length") >= 4
        page.run(
            "(() => { const field = document.querySelector('.md-search__input'); field.focus();"
            " field.value = 'none of them'; field.dispatchEvent(new Event('input', {bubbles: true}));"
            " field.dispatchEvent(new KeyboardEvent('keyup', {bubbles: true})); })()"
        )
        assert page.wait_for("document.querySelectorAll('.md-search-result__item').length") >= 2
        page.open(f"{address}/guide/predict.html")
        assert page.run("document.querySelector('h1').innerText").startswith("Predict")
        elsewhere = [one for one in page.requests if not one.startswith((address, "data:", "about:", "blob:"))]
        assert elsewhere == []
        assert page.complaints == []
