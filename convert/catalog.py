"""The checkpoints that are known to convert, and the short names that people use for them.

The list is public knowledge about the hub's repositories, so listing it downloads nothing. The sizes follow from the
networks' own descriptions; a test builds each network to check them.

>>> resolve("RN50")
'timm/resnet50_clip.openai'
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """A repository on the hub that is known to convert.

    Attributes:
        name: `owner/name`.
        alias: the short name in OpenAI's paper and code, or "".
        form: the library in whose layout its files are.
        parameters: how many numbers the model has, with running statistics; None where that is not known here.
    """

    name: str
    alias: str
    form: str
    parameters: int | None


HUGGING_FACE, OPEN_CLIP = "Hugging Face", "open_clip"
KNOWN = (
    Known("openai/clip-vit-base-patch32", "ViT-B/32", HUGGING_FACE, 151_277_313),
    Known("openai/clip-vit-base-patch16", "ViT-B/16", HUGGING_FACE, 149_620_737),
    Known("openai/clip-vit-large-patch14", "ViT-L/14", HUGGING_FACE, 427_616_513),
    Known("openai/clip-vit-large-patch14-336", "ViT-L/14@336px", HUGGING_FACE, 427_944_193),
    Known("timm/resnet50_clip.openai", "RN50", OPEN_CLIP, 102_060_385),
    Known("timm/resnet101_clip.openai", "RN101", OPEN_CLIP, 119_793_505),
    Known("timm/resnet50x4_clip.openai", "RN50x4", OPEN_CLIP, 178_410_361),
    Known("timm/vit_base_patch16_clip_224.openai", "", OPEN_CLIP, 149_620_737),
    Known("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "", HUGGING_FACE, 151_277_313),
    Known("laion/CLIP-ViT-B-16-laion2B-s34B-b88K", "", HUGGING_FACE, 149_620_737),
    Known("laion/CLIP-ViT-L-14-laion2B-s32B-b82K", "", HUGGING_FACE, 427_616_513),
    Known("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "", HUGGING_FACE, 986_109_441),
    Known("facebook/metaclip-b16-400m", "", HUGGING_FACE, 149_620_737),
    Known("apple/DFN2B-CLIP-ViT-B-16", "", OPEN_CLIP, 149_620_737),
    Known("apple/DFN2B-CLIP-ViT-L-14", "", OPEN_CLIP, 427_616_513),
    Known("timm/MobileCLIP2-S0-OpenCLIP", "MobileCLIP2-S0", OPEN_CLIP, 74_782_145),
    Known("timm/MobileCLIP2-S2-OpenCLIP", "MobileCLIP2-S2", OPEN_CLIP, 99_121_169),
    Known("timm/MobileCLIP2-B-OpenCLIP", "MobileCLIP2-B", OPEN_CLIP, 149_777_537),
    Known("timm/MobileCLIP2-S3-OpenCLIP", "MobileCLIP2-S3", OPEN_CLIP, 248_706_721),
    Known("timm/MobileCLIP2-S4-OpenCLIP", "MobileCLIP2-S4", OPEN_CLIP, 445_192_065),
    Known("apple/MobileCLIP-S1-OpenCLIP", "MobileCLIP-S1", OPEN_CLIP, 84_882_241),
    Known("apple/MobileCLIP-S2-OpenCLIP", "MobileCLIP-S2", OPEN_CLIP, 99_121_169),
    Known("apple/MobileCLIP-B-OpenCLIP", "MobileCLIP-B", OPEN_CLIP, 149_777_537),
    Known("apple/MobileCLIP-B-LT-OpenCLIP", "MobileCLIP-B-LT", OPEN_CLIP, 149_777_537),
    Known("wkcn/TinyCLIP-ViT-8M-16-Text-3M-YFCC15M", "", HUGGING_FACE, None),
    Known("mlx-community/clip-vit-base-patch32", "", "MLX", 151_277_313),
)


def resolve(name: str) -> str:
    """Return the repository that a short name stands for; any other name is returned as it is."""
    return {_plain(known.alias): known.name for known in KNOWN if known.alias}.get(_plain(name), name)


def _plain(name: str) -> str:
    """Return one spelling of a name: ViT-B/16, vit-b-16 and ViT-B-16 are the same."""
    return name.lower().replace("/", "-").replace("@", "-").removesuffix("px")
