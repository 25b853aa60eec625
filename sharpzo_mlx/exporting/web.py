"""A folder with a page that classifies images in the browser: page, graph and runtime, and nothing from elsewhere.

The page's own scripts resize and crop as `images.load` does, to the same bytes. A browser loads modules and WebAssembly
from a server only; any that hands out files will do, such as `python -m http.server`.

>>> write_page(Path("photo-web"), record, web_runtime.find(None))  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path

from PIL.Image import Resampling

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.exporting.bundle import write_words
from sharpzo_mlx.exporting.classifier import ClassifierRecord
from sharpzo_mlx.exporting.web_runtime import PACKAGE, WebRuntime

GRAPH = "classifier.onnx"
PAGE = Path(__file__).with_name("page")
NOTICE = "onnxruntime-licence.txt"
MIT = """Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def check(record: ClassifierRecord) -> None:
    """Check that the page can prepare images as the model needs them.

    Raises:
        UserError: the model resizes by nearest neighbours, which is no sum of pixels.
    """
    if record.preprocessor.resample == Resampling.NEAREST:
        raise UserError(
            "--to web: the model resizes images by nearest neighbours, which the page cannot; use --to onnx"
        )


def write_page(folder: Path, record: ClassifierRecord, runtime: WebRuntime) -> None:
    """Write page, description and runtime beside the graph that is in the folder.

    Raises:
        UserError: the graph's weights did not fit one file, and so no browser either.
    """
    if (folder / f"{GRAPH}.data").exists():
        raise UserError("--to web: the model's weights are too large for a browser; use --dtype float16 or --to onnx")
    for source in sorted(PAGE.iterdir()):
        if source.is_file():
            (folder / source.name).write_bytes(source.read_bytes())
    write_words(folder, record)
    for name, content in runtime.files.items():
        (folder / name).write_bytes(content)
    heading = (
        f"{PACKAGE} {runtime.version}, in the files ort*\n\nMIT License\n\nCopyright (c) Microsoft Corporation\n\n"
    )
    (folder / NOTICE).write_text(heading + MIT, encoding="utf-8")
