"""A hub without a network: its library's functions are replaced by ones that answer as it does."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

huggingface_hub = pytest.importorskip("huggingface_hub")
SMALL = ["README.md", "config.json", "preprocessor_config.json", "tokenizer.json", "vocab.json", "merges.txt"]


class FakeHub:
    """A hub with one model; it records every download."""

    def __init__(self, folder: Path, names: Collection[str]) -> None:
        self.folder = folder
        self.names = list(names)
        self.downloaded: list[str] = []
        self.trouble: Exception | None = None
        self.disk: OSError | None = None

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: self)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", self.hf_hub_download)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot_download)

    def model_info(self, name: str, **_: Any) -> SimpleNamespace:
        if self.trouble:
            raise self.trouble
        return SimpleNamespace(sha="5ha", siblings=[SimpleNamespace(rfilename=file) for file in self.names])

    def hf_hub_download(self, name: str, file: str, *, revision: str) -> str:
        assert revision == "5ha"
        self.downloaded.append(file)
        return str(self.folder / file)

    def snapshot_download(
        self,
        name: str,
        *,
        revision: str = "",
        allow_patterns: list[str] | None = None,
    ) -> str:
        if self.disk:
            raise self.disk
        self.downloaded += allow_patterns or []
        return str(self.folder)
