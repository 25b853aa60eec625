"""Open a converted CLIP: `load` returns a handle that turns texts and images into unit-norm features.

The handle reads a tower when it is first needed and can release each one alone: tuning runs with the text tower alone.
`load` itself reads only the configuration. All that the handle holds or returns is evaluated: every thread may use it.

>>> clip = load("m")  # doctest: +SKIP
>>> clip.encode_images(["dog.jpg"]) @ clip.encode_texts(["a photo of a dog."]).T  # doctest: +SKIP
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import mlx.core as mx
import numpy as np

from sharpzo_mlx.clip import catalog
from sharpzo_mlx.clip.batches import encode_texts, image_batch, pad_rows, read_behind
from sharpzo_mlx.clip.checkpoint import (
    CONFIG,
    WEIGHTS,
    fingerprint,
    image_precision,
    load_config,
    load_model,
    read_logit_bias,
    read_logit_scale,
)
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.cpu_fastvit import CPUFastViT
from sharpzo_mlx.clip.cpu_vision import CPUVision
from sharpzo_mlx.clip.fastvit import FastViTModel
from sharpzo_mlx.clip.finite import check_rows
from sharpzo_mlx.clip.model import CLIPModel, ImageTower
from sharpzo_mlx.clip.resnet import ResNetModel
from sharpzo_mlx.clip.siglip_tokenizer import read_tokenizer
from sharpzo_mlx.clip.text import TextModel
from sharpzo_mlx.clip.tokenizer import Tokenizer
from sharpzo_mlx.clip.vocabulary import read_json
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import default_model_folder, refuse_empty
from sharpzo_mlx.images.load import Batch, stream
from sharpzo_mlx.runtime.device import on_cpu
from sharpzo_mlx.runtime.limits import bounded_cache

# files of checkpoints that were not converted
FOREIGN = {
    *("pytorch_model.bin", "pytorch_model.bin.index.json", "model.safetensors.index.json", "weights.npz"),
    *("open_clip_config.json", "open_clip_model.safetensors", "adapter_config.json", "modules.json"),
}


class Clip:
    """A checkpoint folder, and those of its towers that are in memory.

    Attributes:
        folder: the folder of the converted checkpoint.
        config: its configuration.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config: CLIPConfig = load_config(folder)
        self._text: CLIPModel | None = None
        self._vision: CLIPModel | None = None
        self._cpu_vision: CPUVision | CPUFastViT | None = None
        _check_sizes(self.config, folder)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer; it is read once."""
        return read_tokenizer(self.folder, self.config.text)

    @cached_property
    def fingerprint(self) -> str:
        """The checkpoint's fingerprint: a digest of its weights, which are hashed once and compared with it."""
        return fingerprint(self.folder)

    @property
    def image_precision(self) -> str:
        """The types of the weights that images are encoded with on the present device, such as "float16+float32"."""
        return image_precision(self.folder, self.config)

    def text(self) -> CLIPModel:
        """Return the text half (tower, projection and logit scale); the first call checks the weights and reads it."""
        if self._text is None:
            _ = self.fingerprint  # damaged weights are refused
            self._text = load_model(self.folder, towers=("text",))
        return self._text

    def vision(self) -> CLIPModel:
        """Return the image half (tower and projection); the first call, and the first after a release, reads it."""
        if self._vision is None:
            _ = self.fingerprint  # damaged weights are refused
            self._vision = load_model(self.folder, towers=("vision",))
        return self._vision

    def text_model(self) -> TextModel:
        """Return the text tower."""
        return self.text().text_model

    def vision_model(self) -> ImageTower:
        """Return the image tower."""
        return self.vision().vision_model

    def release_text(self) -> None:
        """Free the text half; the next use reads it again."""
        self._text = None
        mx.clear_cache()

    def release_vision(self) -> None:
        """Free the image half; the next use reads it again."""
        self._vision = self._cpu_vision = None
        mx.clear_cache()

    @cached_property
    def logit_scale(self) -> float:
        """The factor of cosines before the softmax: exp of the checkpoint's number, which is read alone."""
        return read_logit_scale(self.folder)

    @cached_property
    def logit_bias(self) -> float | None:
        """The summand of a SigLIP's logits, which makes their logistic function a probability; None for a CLIP."""
        return read_logit_bias(self.folder)

    @property
    def image_batch(self) -> int:
        """How many images pass the image tower at once on the present device."""
        return image_batch(self.config.vision)

    def encode_pixels(self, pixels: np.ndarray | mx.array) -> mx.array:
        """Return the features of pictures.

        Args:
            pixels: [B, H, W, 3]: bytes of pictures in the model's input size, or normalised pixels.

        Returns:
            Features [B, D], float32, unit norm, evaluated. On MLX's CPU device a ViT and a FastViT run in
            NumPy, see `clip.cpu_vision` and `clip.cpu_fastvit`.

        Raises:
            UserError: the weights are damaged, or give a feature that is not finite.
        """
        if on_cpu() and not isinstance(self.vision_model(), ResNetModel):
            self._cpu_vision = self._cpu_vision or _cpu_vision(self.vision())
            return self._check(mx.array(self._cpu_vision.image_features(np.asarray(pixels))))
        features = self.vision().image_features(mx.array(pixels))
        mx.eval(features)
        return self._check(features)

    def encode_batches(self, batches: Iterable[Batch], size: int) -> Iterator[tuple[Batch, mx.array]]:
        """Encode batches of pictures; on a GPU the next one is prepared while the device computes.

        Args:
            batches: at most `size` pictures each. A batch without a picture does not load the tower.
            size: the number that a smaller batch is filled up to on a GPU.

        Yields:
            The batches in order, each with its features [B, D], float32, unit norm, evaluated.

        Raises:
            UserError: the weights are damaged, or give a feature that is not finite.
        """
        with bounded_cache():
            for batch, features in read_behind((batch, self._begin(batch.pictures, size)) for batch in batches):
                yield batch, self._check(features)

    def _begin(self, pictures: np.ndarray, size: int) -> mx.array:
        """Return the features of a batch; on a GPU lazy."""
        if not len(pictures):
            return mx.zeros((0, self.config.projection_dim))
        if on_cpu():
            return self.encode_pixels(pictures)
        return self.vision().image_features(pad_rows(mx.array(pictures), size))[: len(pictures)]

    def encode_images(self, paths: str | Path | Sequence[Path | str]) -> mx.array:
        """Return the features of image files, in order.

        Args:
            paths: one image file, or several; `sharpzo_mlx.images.load.stream` reads them.

        Returns:
            Features [n, D], float32, unit norm, evaluated.

        Raises:
            UserError: a file cannot be read; the error names it. (`sharpzo_mlx.features.extract` skips such files.)
        """
        paths = [paths] if isinstance(paths, (str, Path)) else paths
        size = max(1, min(self.image_batch, len(paths)))
        batches = _whole(stream(paths, self.config.preprocessor, batch_size=size), paths)
        return self._join([features for _, features in self.encode_batches(batches, size)])

    def encode_texts(self, texts: str | Sequence[str]) -> mx.array:
        """Return the features of whole texts, in order.

        Args:
            texts: one prompt, or several, such as "a photo of a dog.", at most as long as the text tower reads.

        Returns:
            Features [n, D], float32, unit norm, evaluated.

        Raises:
            UserError: a text is too long; the error names it.
        """
        texts = [texts] if isinstance(texts, str) else texts
        with bounded_cache():
            return self._check(self._join(encode_texts(self.text(), self.tokenizer, texts) if texts else []))

    def _join(self, rows: list[mx.array]) -> mx.array:
        """Return batches of features as one array, evaluated, so that every thread may use it."""
        features = mx.concatenate(rows) if rows else mx.zeros((0, self.config.projection_dim))
        mx.eval(features)
        return features

    def _check(self, features: mx.array) -> mx.array:
        return check_rows(features, self.folder / WEIGHTS)


def _cpu_vision(model: CLIPModel) -> CPUVision | CPUFastViT:
    return CPUFastViT(model) if isinstance(model.vision_model, FastViTModel) else CPUVision(model)


def _whole(batches: Iterable[Batch], paths: Sequence[Path | str]) -> Iterator[Batch]:
    """Yield batches; UserError for the first file that cannot be read."""
    for batch in batches:
        for index, reason in batch.failed:
            raise UserError(f"{paths[index]}: {reason}; remove it from the list or repair it")
        yield batch


def _check_sizes(config: CLIPConfig, folder: Path) -> None:
    expected = (config.vision.image_size, config.vision.image_size)
    if config.preprocessor.output_size != expected:
        raise UserError(
            f"{folder / 'config.json'}: the preprocessing gives {config.preprocessor.output_size} pixels, but the "
            f"image tower takes {expected}: correct `preprocessor.crop_size`"
        )


def load(folder: str | Path | None = None) -> Clip:
    """Open a converted checkpoint; its weights are read when they are first needed.

    Args:
        folder: a folder that `sharpzo-mlx convert` wrote, or the name of a model that it made from the hub, such as
            "siglip2-base"; None for the default model.

    Returns:
        The handle.

    Raises:
        UserError: the folder is missing or holds no converted CLIP; the error says what to run.
    """
    if folder is None:
        folder = default_model_folder()
        if not (folder / CONFIG).is_file():
            raise UserError(
                "the default model is not here yet: run `sharpzo-mlx convert` once, or name a model (--model)"
            )
    refuse_empty(folder)
    found = catalog.locate(folder)
    if not found.is_dir():
        raise UserError(_describe_absent(str(folder), found))
    _check_converted(found)
    return Clip(found)


def _describe_absent(given: str, path: Path) -> str:
    """Return what to say of a model that is neither a folder nor a name in the cache, and what to do."""
    if path.exists():
        return f"{path}: is a file; make a model of it: sharpzo-mlx convert {shlex.quote(str(path))} --output m"
    if missing := catalog.describe_missing(given):
        return missing
    if path.name == given and catalog.nearest(given):
        return f"{given}: no such folder, and {catalog.suggest(given)}"
    return f"{path}: no such model; make it: sharpzo-mlx convert SOURCE --output {path}"


def _check_converted(folder: Path) -> None:
    """Refuse a checkpoint of another library's, which has weights but not those of a conversion.

    Raises:
        UserError: the folder is one; the error says how to convert it.
    """
    here = {path.name for path in folder.iterdir()}
    whole = WEIGHTS in here and CONFIG in here
    own = whole and "preprocessor" in read_json(folder / CONFIG)  # which only a conversion writes into it
    foreign = FOREIGN & here or whole
    if not own and foreign:
        source = shlex.quote(str(folder))
        raise UserError(f"{folder}: not converted yet; make a model of it: sharpzo-mlx convert {source} --output m")
