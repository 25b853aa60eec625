"""Views of pictures: crops as torchvision draws them, the same for the same content, streamed in order."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from pictures import SMALL, broken_files, picture
from PIL import Image

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.features.cache import digest
from sharpzo_mlx.images import views as views_module
from sharpzo_mlx.images.decode import held_image, open_image
from sharpzo_mlx.images.load import normalise, resize_and_crop
from sharpzo_mlx.images.preprocessor import PreprocessorConfig
from sharpzo_mlx.images.views import draw_crop, make_view, stream_views
from sharpzo_mlx.rng import generator_for

ANY = bytes(range(32))


def test_a_view_depends_on_content_and_number_alone() -> None:
    image = Image.fromarray(picture())
    views = [make_view(image, SMALL, ANY, number) for number in range(20)]
    assert {view.shape for view in views} == {(32, 32, 3)}
    for number in (7, 0):
        np.testing.assert_array_equal(make_view(image, SMALL, ANY, number), views[number])
    assert len({view.tobytes() for view in [*views, resize_and_crop(image, SMALL)]}) == 21
    other = make_view(image, SMALL, ANY[::-1], 0)
    assert np.abs(other.astype(int) - views[0]).max() > 5


def test_half_of_the_views_are_mirrored() -> None:
    rising = Image.fromarray(np.tile(np.arange(0, 240, 4, dtype=np.uint8)[None, :, None], (40, 1, 3)))
    views = [make_view(rising, SMALL, ANY, number).astype(int) for number in range(200)]
    rises = [bool(view[0, -1, 0] > view[0, 0, 0]) for view in views]
    assert 70 < sum(rises) < 130
    for view, rise in zip(views, rises, strict=True):
        assert (np.diff(view[0, :, 0]) * (1 if rise else -1) >= 0).all()


def test_a_view_is_cut_before_it_is_resized() -> None:
    """No pixel outside the crop shines in."""
    config, image = PreprocessorConfig.for_size(24), Image.fromarray(picture(80, 100))
    view = make_view(image, config, ANY, 3)
    box = draw_crop(generator_for(int.from_bytes(ANY, "big"), "view", 3), *image.size)
    cut = np.asarray(image.crop(box).resize((24, 24), Image.Resampling.BICUBIC))
    assert np.array_equal(view, cut) or np.array_equal(view, cut[:, ::-1])


def test_crops_have_the_shares_ratios_and_places_of_random_resized_crop() -> None:
    generator = np.random.default_rng(0)
    boxes = np.array([draw_crop(generator, 1000, 900) for _ in range(4000)])
    wide, high = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() == 0
    assert (boxes[:, 2].max(), boxes[:, 3].max()) == (1000, 900)
    share, ratio = wide * high / 9e5, wide / high
    assert (share > 0.499).all()
    assert (ratio > 0.749).all()
    assert (ratio < 1.335).all()
    small = share < 0.6  # nearly all of these fit, so that neither is cut short there
    assert abs(np.log(ratio[small]).mean()) < 0.02
    assert np.log(ratio[small]).std() == pytest.approx(2 * math.log(4 / 3) / math.sqrt(12), rel=0.1)
    assert (share[small] < 0.55).mean() == pytest.approx(0.5, abs=0.05)
    assert (boxes[:, 0] / np.maximum(1000 - wide, 1)).mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((1, 1), (0, 0, 1, 1)),
        ((1, 5000), (0, 2499, 1, 2500)),
        ((5000, 1), (2499, 0, 2500, 1)),
        ((3000, 30), (1480, 0, 1520, 30)),
        ((30, 3000), (0, 1480, 30, 1520)),
    ],
)
def test_pictures_that_no_crop_fits_give_their_middle(size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    assert draw_crop(np.random.default_rng(0), *size) == box
    view = make_view(Image.new("RGB", size, (10, 90, 200)), SMALL, ANY, 0)
    np.testing.assert_array_equal(view, np.full((32, 32, 3), (10, 90, 200)))


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_stream_of_views_is_ordered_and_whole(batch_size: int, tmp_path: Path) -> None:
    whole = [tmp_path / f"{seed}.png" for seed in range(3)]
    for seed, path in enumerate(whole):
        Image.fromarray(picture(seed=seed)).save(path)
    broken = broken_files(tmp_path)[0]
    images = [(path, digest(path)) for path in (whole[0], broken, *whole[1:])]
    batches = list(stream_views(images, SMALL, views=3, batch_size=batch_size, workers=2))
    assert [index for batch in batches for index in batch.indices] == [0, 0, 0, 2, 2, 2, 3, 3, 3]
    assert [index for batch in batches for index, _ in batch.failed] == [1]
    assert all(len(batch.indices) + len(batch.failed) <= batch_size for batch in batches)
    pixels = np.concatenate([normalise(batch.pictures, SMALL) for batch in batches])
    for row, (place, number) in enumerate((place, number) for place in (0, 2, 3) for number in range(3)):
        path, found = images[place]
        expected = normalise(make_view(open_image(path), SMALL, found, number), SMALL)
        np.testing.assert_array_equal(pixels[row], expected)


def test_stream_of_views_reads_a_bounded_number_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.png")
    opened: list[Path] = []

    def counted(path: Path) -> AbstractContextManager[Image.Image]:
        opened.append(path)
        return held_image(path)

    monkeypatch.setattr(views_module, "held_image", counted)
    stream = stream_views([(tmp_path / "a.png", ANY)] * 50, SMALL, views=4, batch_size=8, workers=2)
    for batch in range(1, 4):
        next(stream)
        time.sleep(0.05)
        assert len(opened) <= 2 * batch + 2


def test_pictures_of_different_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="set `crop`"):
        next(stream_views([], PreprocessorConfig(resize=32, crop=None), views=2))
