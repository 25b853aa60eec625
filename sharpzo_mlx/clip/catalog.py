"""The checkpoints that are known to convert, the short names that people use for them, and where a converted one is.

The list is public knowledge about the hub's repositories, so listing it downloads nothing. The sizes follow from the
networks' own descriptions; a test builds CLIP's networks to check them. A model that was converted by its name stands
in the cache under that name, where `--model NAME` finds it from any folder.

>>> resolve("RN50"), resolve("siglip2-base")
('timm/resnet50_clip.openai', 'google/siglip2-base-patch16-224')
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from sharpzo_mlx.errors import one_line
from sharpzo_mlx.files import expand, models_folder

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
SHOWN = 60  # characters of a name that an error repeats
S0_REMEDY = "use MobileCLIP2-S0 (timm/MobileCLIP2-S0-OpenCLIP), which is more accurate and as fast"
_ADDRESS = re.compile(r"(?:https?://[^/\s]+/|hf://(?:models/)?|hf-hub:)([\w.-]+/[\w.-]+)(?:[/@?#].*)?")
_AROUND = " \t\n'\""  # what is copied with a name by mistake
_FIRST_S0 = re.compile(r"([\w.-]+/)?mobileclip[-_]s0([-_]openclip)?", re.IGNORECASE)


@dataclass(frozen=True)
class Known:
    """A repository on the hub that is known to convert.

    Attributes:
        name: `owner/name`.
        alias: the short name in OpenAI's paper and code, or one that leaves out what is alike everywhere, or "".
        form: the library in whose layout its files are.
        parameters: how many numbers the model has, with running statistics; those of MobileCLIP are
            folded; None where that is not known here.
        licence: the licence of the weights, as the hub spells it; "" where their card has to be read.
    """

    name: str
    alias: str
    form: str
    parameters: int | None
    licence: str

    @property
    def bytes(self) -> int | None:
        """About how much its weights file takes, in float32; None where that is not known here."""
        return None if self.parameters is None else 4 * self.parameters

    @property
    def size(self) -> str:
        """What a download takes in words, such as "about 408 MB"; "" where that is not known here."""
        if self.bytes is None:
            return ""
        return f"about {self.bytes / 1e9:.2f} GB" if self.bytes >= 1e9 else f"about {self.bytes / 1e6:.0f} MB"

    @property
    def files(self) -> tuple[str, ...]:
        """The files that a conversion reads, as this form of repository usually has them."""
        return _FILES[self.form]


HUGGING_FACE, OPEN_CLIP, MLX = "Hugging Face", "open_clip", "MLX"
_FILES = {
    HUGGING_FACE: ("config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors"),
    OPEN_CLIP: ("open_clip_config.json", "open_clip_model.safetensors"),
    MLX: ("config.json", "vocab.json", "merges.txt", "weights.npz"),
}
_MIT, _APACHE, _APPLE = "mit", "apache-2.0", "apple-amlr"

_CLIP = (
    Known("openai/clip-vit-base-patch32", "ViT-B/32", HUGGING_FACE, 151_277_313, _MIT),
    Known("openai/clip-vit-base-patch16", "ViT-B/16", HUGGING_FACE, 149_620_737, _MIT),
    Known("openai/clip-vit-large-patch14", "ViT-L/14", HUGGING_FACE, 427_616_513, _MIT),
    Known("openai/clip-vit-large-patch14-336", "ViT-L/14@336px", HUGGING_FACE, 427_944_193, _MIT),
    Known("timm/resnet50_clip.openai", "RN50", OPEN_CLIP, 102_060_385, ""),
    Known("timm/resnet101_clip.openai", "RN101", OPEN_CLIP, 119_793_505, ""),
    Known("timm/resnet50x4_clip.openai", "RN50x4", OPEN_CLIP, 178_410_361, ""),
    Known("timm/vit_base_patch16_clip_224.openai", "", OPEN_CLIP, 149_620_737, _APACHE),
    Known("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "", HUGGING_FACE, 151_277_313, _MIT),
    Known("laion/CLIP-ViT-B-16-laion2B-s34B-b88K", "", HUGGING_FACE, 149_620_737, _MIT),
    Known("laion/CLIP-ViT-L-14-laion2B-s32B-b82K", "", HUGGING_FACE, 427_616_513, _MIT),
    Known("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "", HUGGING_FACE, 986_109_441, _MIT),
    Known("facebook/metaclip-b16-400m", "", HUGGING_FACE, 149_620_737, "cc-by-nc-4.0"),
    Known("apple/DFN2B-CLIP-ViT-B-16", "", OPEN_CLIP, 149_620_737, ""),
    Known("apple/DFN2B-CLIP-ViT-L-14", "", OPEN_CLIP, 427_616_513, ""),
    Known("wkcn/TinyCLIP-ViT-8M-16-Text-3M-YFCC15M", "", HUGGING_FACE, None, _MIT),
    Known("mlx-community/clip-vit-base-patch32", "", MLX, 151_277_313, ""),
)
_SIGLIP = (
    Known("google/siglip2-base-patch16-224", "siglip2-base", HUGGING_FACE, 375_187_970, _APACHE),
    Known("google/siglip2-base-patch16-256", "siglip2-base-256", HUGGING_FACE, 375_234_050, _APACHE),
    Known("google/siglip2-base-patch16-384", "siglip2-base-384", HUGGING_FACE, 375_479_810, _APACHE),
    Known("google/siglip2-base-patch16-512", "siglip2-base-512", HUGGING_FACE, 375_823_874, _APACHE),
    Known("google/siglip2-large-patch16-256", "siglip2-large", HUGGING_FACE, 881_526_786, _APACHE),
    Known("google/siglip2-large-patch16-384", "siglip2-large-384", HUGGING_FACE, 881_854_466, _APACHE),
    Known("google/siglip2-large-patch16-512", "siglip2-large-512", HUGGING_FACE, 882_313_218, _APACHE),
    Known("google/siglip2-so400m-patch14-224", "siglip2-so400m-224", HUGGING_FACE, 1_135_463_602, _APACHE),
    Known("google/siglip2-so400m-patch14-384", "siglip2-so400m", HUGGING_FACE, 1_136_008_498, _APACHE),
    Known("google/siglip2-so400m-patch16-256", "siglip2-so400m-256", HUGGING_FACE, 1_135_670_962, _APACHE),
    Known("google/siglip2-so400m-patch16-512", "siglip2-so400m-512", HUGGING_FACE, 1_136_555_698, _APACHE),
    Known("google/siglip-base-patch16-224", "siglip-base", HUGGING_FACE, 203_155_970, _APACHE),
    Known("google/siglip-base-patch16-256", "siglip-base-256", HUGGING_FACE, 203_202_050, _APACHE),
    Known("google/siglip-base-patch16-384", "siglip-base-384", HUGGING_FACE, 203_447_810, _APACHE),
    Known("google/siglip-base-patch16-512", "siglip-base-512", HUGGING_FACE, 203_791_874, _APACHE),
    Known("google/siglip-large-patch16-256", "siglip-large", HUGGING_FACE, 652_150_786, _APACHE),
    Known("google/siglip-large-patch16-384", "siglip-large-384", HUGGING_FACE, 652_478_466, _APACHE),
    Known("google/siglip-so400m-patch14-224", "siglip-so400m-224", HUGGING_FACE, 877_360_306, _APACHE),
    Known("google/siglip-so400m-patch14-384", "siglip-so400m", HUGGING_FACE, 877_960_498, _APACHE),
)
_MOBILE = (
    Known("timm/MobileCLIP2-S0-OpenCLIP", "mobileclip2-s0", OPEN_CLIP, 74_782_145, _APPLE),
    Known("timm/MobileCLIP2-S2-OpenCLIP", "mobileclip2-s2", OPEN_CLIP, 99_121_169, _APPLE),
    Known("timm/MobileCLIP2-B-OpenCLIP", "mobileclip2-b", OPEN_CLIP, 149_777_537, _APPLE),
    Known("timm/MobileCLIP2-S3-OpenCLIP", "mobileclip2-s3", OPEN_CLIP, 248_706_721, _APPLE),
    Known("timm/MobileCLIP2-S4-OpenCLIP", "mobileclip2-s4", OPEN_CLIP, 445_192_065, _APPLE),
    Known("apple/MobileCLIP-S1-OpenCLIP", "mobileclip-s1", OPEN_CLIP, 84_882_241, _APPLE),
    Known("apple/MobileCLIP-S2-OpenCLIP", "mobileclip-s2", OPEN_CLIP, 99_121_169, _APPLE),
    Known("apple/MobileCLIP-B-OpenCLIP", "mobileclip-b", OPEN_CLIP, 149_777_537, _APPLE),
    Known("apple/MobileCLIP-B-LT-OpenCLIP", "mobileclip-b-lt", OPEN_CLIP, 149_777_537, _APPLE),
)
_PERCEPTION = (
    Known("timm/PE-Core-T-16-384", "pe-core-t16", OPEN_CLIP, 69_546_113, _APACHE),
    Known("timm/PE-Core-S-16-384", "pe-core-s16", OPEN_CLIP, 87_188_225, _APACHE),
    Known("timm/PE-Core-B-16", "pe-core-b16", OPEN_CLIP, 447_660_545, _APACHE),
    Known("timm/PE-Core-L-14-336", "pe-core-l14", OPEN_CLIP, 671_138_817, _APACHE),
)
FAMILIES = {"CLIP": _CLIP, "SigLIP": _SIGLIP, "Perception Encoder": _PERCEPTION} | {
    "MobileCLIP, whose weights are for research only": _MOBILE
}
KNOWN = tuple(known for family in FAMILIES.values() for known in family)


def find(name: str) -> Known | None:
    """Return the entry of a repository, its last part or its short name, in any of their spellings, or None."""
    plain = _plain(name)
    spelled = [(known, (known.name, known.alias, known.name.rpartition("/")[2])) for known in KNOWN]
    return next((known for known, names in spelled if plain and plain in map(_plain, names)), None)


def resolve(name: str) -> str:
    """Return the repository that a short name stands for; any other name is returned as it is."""
    known = None if "/" in name and HUB_NAME.fullmatch(name) and not _is_alias(name) else find(name)
    return known.name if known else name


def _is_alias(name: str) -> bool:
    return _plain(name) in {_plain(known.alias) for known in KNOWN if known.alias}


def place(name: str) -> Path:
    """Return the folder in the cache for the model of a name, short or `owner/name`; it need not exist."""
    return models_folder() / resolve(name).replace("/", "--")


def name_of(folder: Path) -> str:
    """Return the name, `owner/name`, that a folder in the cache is for."""
    return folder.name.replace("--", "/", 1)


def locate(given: str | Path) -> Path:
    """Return the folder of a model: a path that exists, else the place in the cache of a model of that name.

    Args:
        given: a path or a name. A folder that exists comes before a name.

    Returns:
        The folder, or the path itself where neither exists.
    """
    path = expand(given)
    name = resolve(str(given))
    if not path.exists() and HUB_NAME.fullmatch(name) and (stored := place(name)).is_dir():
        return stored
    return path


def nearest(name: str) -> list[str]:
    """Return the known names that are spelled most like a name, short ones as well as repositories; at most three."""
    names = {_plain(one): one for known in KNOWN for one in (known.name, known.alias) if one}
    return [names[one] for one in difflib.get_close_matches(_plain(name)[:SHOWN], names, n=3, cutoff=0.6)]


def suggest(name: str) -> str:
    """Return what to say of a name that is no known one: the name in an address, the nearest, or where they are."""
    plain = name.strip(_AROUND)
    address = _ADDRESS.fullmatch(plain)
    if address or (plain != name and HUB_NAME.fullmatch(plain)):
        return f"no name on the hub as it is; give the name alone: {address[1] if address else plain}"
    if near := nearest(name):
        return f"no known model; the nearest are {', '.join(near)} (`sharpzo-mlx models` lists all)"
    return "no name on the hub such as openai/clip-vit-base-patch16 (`sharpzo-mlx models` lists known ones)"


def describe_missing(name: str) -> str | None:
    """Return that a known model is not converted yet, and the command that does it, or why none can; else None."""
    if refusal := describe_refused(name):
        return f"{one_line(name, SHOWN)}: {refusal}"
    known = find(name)
    if known is None:
        return None
    size = f", {known.size}" if known.size else ""
    shown = one_line(name, SHOWN)
    return f"{shown}: not here yet; make it once: sharpzo-mlx convert {shown} (downloads {known.name}{size})"


def describe_refused(name: str) -> str | None:
    """Return why a name on the hub, or a short one, is of a MobileCLIP that cannot be converted, or None."""
    if not _FIRST_S0.fullmatch(name):
        return None
    return f"its text tower (mct) mixes words by convolutions, which is not supported; {S0_REMEDY}"


def _plain(name: str) -> str:
    """Return one spelling of a name: ViT-B/16, vit-b-16 and ViT-B-16 are the same."""
    return name.lower().replace("/", "-").replace("@", "-").replace("_", "-").removesuffix("px")
