"""Strings that tokenizers treat specially, for tests that compare two of them."""

from __future__ import annotations

import random

from sharpzo_mlx.clip.vocabulary import BOS, EOS

PIECES = [
    *(
        "a photo of a",
        "Tench",
        "it's",
        "WE'LL",
        "don't",
        "they've I'm he'd you're",
        "’s",
        "'S",
        "''s",
        "1234567890",
    ),
    *(
        "３４",
        "½",
        "²",
        "٣",
        "Ⅷ",
        "é",
        "e\u0301",
        "Å",
        "\u212b",
        "ﬁ",
        "İ",
        "ı",
        "ẞ",
        "ς",
        "Σ",
        "ǅ",
        "한국",
        "한",
    ),
    *(
        "日本語",
        "ไทย",
        "हिन्दी",
        "العربية",
        "עִבְרִית",
        "русский",
        "ЁЛКА",
        "👩‍👩‍👧‍👦",
        "🇫🇷",
        "❤️",
        "😀",
        "🏽",
        "\U0001f9d1\U0001f3ff",
    ),
    *(
        " ",
        "  ",
        "\t",
        "\n",
        "\r\n",
        "\x0b",
        "\x0c",
        "\x1c",
        "\x85",
        "\xa0",
        "\u2003",
        "\u2028",
        "\u3000",
        "\ufeff",
    ),
    *("\u200b", "\u200d", "\u00ad", "\x00", "\x01", "\x07", "\x1b[31m", "\x7f", "\u202e", "\ufffd", "\uffff"),
    *(
        "\U000e0041",
        "\U0010ffff",
        "\U0001f600\ufe0f",
        BOS,
        EOS,
        BOS.upper(),
        "<|endoftext",
        "|>",
        "</w>",
        "Ġ",
        "</W>",
    ),
    *(
        "&amp;",
        "&lt;br&gt;",
        "<b>",
        "http://x.y/?q=1&r=%20",
        "a.b,c;d:e!f?",
        "...",
        "--",
        "__",
        "_a_",
        "#1",
        "$9.99",
    ),
    *(
        "`code`",
        "\\n",
        "{}",
        "{0}",
        "%s",
        '"quoted"',
        "«»",
        "¿¡",
        "x" * 40,
        "Pneumonoultramicroscopicsilicovolcano",
    ),
]


def hostile_strings(count: int) -> list[str]:
    """Strings of pieces that tokenizers treat specially, and of characters from everywhere in unicode."""
    draw = random.Random(0)
    strings = ["", " ", "\n", *PIECES]
    while len(strings) < count:
        if draw.random() < 0.6:
            joint = draw.choice(["", " ", "\t"])
            strings.append(joint.join(draw.choices(PIECES, k=draw.randint(1, 8))))
        else:
            top = draw.choice([0x80, 0x250, 0x3000, 0x10000, 0x110000])
            points = (draw.randrange(top) for _ in range(draw.randint(1, 25)))
            strings.append("".join(chr(point) for point in points if not 0xD800 <= point < 0xE000))
    return strings
