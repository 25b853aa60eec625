"""Make a small JPEG of a picture that stands inside a page, as a data URL.

>>> as_data_url(Image.new("RGB", (640, 480)), 120)[:23]
'data:image/jpeg;base64,'
"""

from __future__ import annotations

import base64
import io

from PIL import Image

QUALITIES = (80, 60, 40, 20)  # of the JPEG, tried until it is small enough
MOST_BYTES = 16_000  # of the JPEG, where the lowest quality allows


def as_data_url(picture: Image.Image, size: int) -> str:
    """Return a picture as a JPEG whose longer side is at most `size` pixels."""
    small = picture.convert("RGB")
    small.thumbnail((size, size))
    for quality in QUALITIES:
        out = io.BytesIO()
        small.save(out, "JPEG", quality=quality)
        if out.tell() <= MOST_BYTES:
            break
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
