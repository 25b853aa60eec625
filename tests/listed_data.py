"""Small data sets in the forms that list their images, made from class folders."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def class_files(photos: Path) -> Iterator[tuple[Path, str]]:
    """Yield every image of class folders and its class, sorted."""
    for folder in sorted(photos.iterdir()):
        for file in sorted(folder.iterdir(), key=lambda path: (len(path.name), path.name)):
            yield file, folder.name


def interleaved(photos: Path) -> list[tuple[Path, str]]:
    """The images with the classes mixed, as shuffled shards have them."""
    found = list(class_files(photos))
    return [found[place] for start in range(7) for place in range(start, len(found), 7)]


def write_parquet(file: Path, images: list[tuple[bytes, Any]], names: list[str] | None = None, **options: Any) -> Path:
    """Write images and labels as `datasets` does; `names` are those of a ClassLabel, which labels are numbers of."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pictures = [{"bytes": data, "path": f"{place}.png"} for place, (data, _) in enumerate(images)]
    table = pa.table(
        {
            "image": pa.array(pictures, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "label": pa.array([label for _, label in images], pa.int64() if names else pa.string()),
        }
    )
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, **options)
    return file


def write_tar(file: Path, members: list[tuple[str, bytes]]) -> Path:
    """Write a tar file of regular members."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file
