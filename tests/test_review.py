"""Images to label next, labels that look wrong, and pictures that are there twice."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from labelled_features import World, normalise
from PIL import Image, ImageDraw

import sharpzo_mlx as sz
from sharpzo_mlx.cli import main
from sharpzo_mlx.cli.review_text import format_suggestions
from sharpzo_mlx.report.formatting import aligned, shorten
from sharpzo_mlx.review.covering import MOST, choose_covering
from sharpzo_mlx.review.label_check import find_wrong
from sharpzo_mlx.review.left_out import judge_left_out
from sharpzo_mlx.review.suggestions import Suggestion
from sharpzo_mlx.review.twins import find_twins


def test_changed_labels_are_found() -> None:
    world, rng = World.draw(6, 32, seed=3, apart=1.5), np.random.default_rng(0)
    right = world.features(40, seed=1)
    rows = rng.choice(len(right.labels), 24, replace=False)
    labels = right.labels.copy()
    labels[rows] = (labels[rows] + rng.integers(1, 6, len(rows))) % 6
    answers = judge_left_out(world.words(0.5), 20.0, replace(right, labels=labels))
    np.testing.assert_allclose(answers.probabilities.sum(axis=1), 1)
    found = find_wrong(answers.probabilities, labels)
    assert len(np.intersect1d(found, rows)) >= 0.7 * len(rows)
    assert len(np.setdiff1d(found, rows)) <= 0.1 * len(found)
    own = answers.probabilities[found, labels[found]]
    assert (np.diff(own) >= 0).all()  # the most doubtful first
    contradicted = find_wrong(answers.probabilities, labels, odds=1)
    assert len(np.intersect1d(contradicted, rows)) >= 0.9 * len(rows)
    assert contradicted[: len(found)].tolist() != sorted(contradicted[: len(found)].tolist())
    assert len(find_wrong(answers.probabilities, labels, odds=1e4)) < len(found) < len(contradicted)


def test_left_out_means_that_the_own_label_says_nothing() -> None:
    """An image is judged alike whichever of the classes it is labelled as, but for the fit to all others."""
    world = World.draw(3, 16, seed=5, apart=0.9)
    images = world.features(30, seed=2)
    other = images.labels.copy()
    other[0] = (other[0] + 1) % 3
    before, after = (
        judge_left_out(world.words(0.5), 20.0, replace(images, labels=labels)).probabilities[0]
        for labels in (images.labels, other)
    )
    assert before.argmax() == after.argmax() == images.labels[0]


def clusters(seed: int = 0) -> np.ndarray:
    """Five groups of twenty features; the last group is one image and nineteen copies of the first group's."""
    rng = np.random.default_rng(seed)
    return normalise(np.repeat(rng.normal(size=(5, 24)), 20, axis=0) + 0.1 * rng.normal(size=(100, 24)))


def test_choices_are_unlike_each_other_and_what_is_known() -> None:
    x = clusters()
    known = x[:3]  # of the first group
    chosen = [choice.row for choice in choose_covering(x, np.ones(100), known, 4)]
    assert sorted(row // 20 for row in chosen) == [1, 2, 3, 4]


def test_choices_are_where_the_run_is_uncertain() -> None:
    uncertainty = np.full(100, 0.05)
    uncertainty[40:60] = 1.0
    assert choose_covering(clusters(), uncertainty, np.zeros((0, 24)), 1)[0].row // 20 == 2


def test_an_oddity_does_not_come_first_and_a_copy_not_at_all() -> None:
    x = normalise(np.concatenate([clusters()[:40], np.random.default_rng(9).normal(size=(1, 24))]))
    choices = choose_covering(x, np.ones(41), np.zeros((0, 24)), 41)
    assert choices[0].row != 40
    assert all(one.gain >= other.gain for one, other in itertools.pairwise(choices))
    same = np.repeat(x[:1], 5, axis=0)
    assert len(choose_covering(np.concatenate([same, x[20:21]]), np.ones(6), np.zeros((0, 24)), 6)) == 2
    assert choose_covering(same, np.ones(5), same[:1], 5) == []


def test_very_many_images_are_thinned_out_and_the_uncertain_ones_stay() -> None:
    rng = np.random.default_rng(0)
    x, uncertainty = normalise(rng.normal(size=(MOST + 500, 8))), np.full(MOST + 500, 0.01)
    uncertainty[17::600] = 1.0
    chosen = choose_covering(x, uncertainty, x[:0], 3)
    assert len(chosen) == 3
    assert uncertainty[chosen[0].row] == 1.0


def draw_picture(seed: int) -> Image.Image:
    rng, picture = np.random.default_rng(seed), Image.new("RGB", (120, 90), "white")
    for _ in range(6):
        x, y, width, height = rng.integers(0, 70, 4).tolist()
        colour = tuple(rng.integers(0, 255, 3).tolist())
        ImageDraw.Draw(picture).ellipse((x, y, x + 10 + width, y + 10 + height), fill=colour)
    return picture


def test_copies_and_near_copies(tmp_path: Path) -> None:
    """Equal features alone make no twin: the pixels must be alike as well."""
    paths = [tmp_path / name for name in ("a.png", "b.png", "a-copy.png", "a.jpg", "gone.png")]
    draw_picture(0).save(paths[0])
    draw_picture(1).save(paths[1])
    shutil.copy(paths[0], paths[2])
    draw_picture(0).resize((60, 45)).save(paths[3], quality=70)
    x = np.concatenate([np.eye(6)[[0, 0, 0, 0, 0]], np.eye(6)[[1, 2]]])
    far = [tmp_path / "c.png", tmp_path / "d.png"]
    for place, path in enumerate(far):
        draw_picture(0 if place else 2).save(path)
    found = {(twin.row, twin.other): twin.same_content for twin in find_twins(x, [*paths, *far])}
    assert found == {(2, 0): True, (3, 0): False}
    rather = find_twins(x, [*paths, *far], lambda row, other: other == 2)
    assert {(twin.row, twin.other) for twin in rather} == {(2, 0), (3, 2)}


@pytest.fixture
def mixed_up(photos: Path, tmp_path: Path) -> Path:
    """Splits with one dog among the cats, a damaged file, and a training image that is a test image too."""
    data = tmp_path / "data"
    for split, numbers in (("train", range(8)), ("test", range(8, 12))):
        for folder in ("cat", "dog", "barn owl"):
            (data / split / folder).mkdir(parents=True)
            for number in numbers:
                shutil.copy(photos / folder / f"{number}.png", data / split / folder)
    shutil.move(data / "test" / "dog" / "9.png", data / "test" / "cat" / "dog.png")
    (data / "train" / "barn owl" / "0.png").write_bytes(b"no image")
    shutil.copy(data / "train" / "dog" / "3.png", data / "test" / "dog" / "again.png")
    return data


def test_a_data_set_with_mistakes(mixed_up: Path, tiny_model: Path) -> None:
    found = sz.check_labels(sz.load(tiny_model), mixed_up)
    assert found.images == 36
    first = found.suspects[0]
    assert (first.path, first.given, first.suggested) == (mixed_up / "test" / "cat" / "dog.png", "cat", "dog")
    assert first.part.folder == mixed_up / "test"
    assert first.suggested_probability > 30 * first.given_probability
    assert {near.path.parent.name for near in first.neighbours} == {"dog"}
    assert {"cat", "dog"} <= set(dict(first.choices))
    (pair,) = [pair for pair in found.duplicates if pair.same_content]
    assert pair.matters
    assert (pair.path.name, pair.split, pair.other.name, pair.other_split) == ("again.png", "test", "3.png", "train")


def test_check_with_a_run_and_as_a_command(
    mixed_up: Path, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "wrong.html"
    words = ["check", str(mixed_up), "--run", str(finished_run)]
    assert main.run([*words, "--page", str(page)]) == 0
    out, err = capsys.readouterr()
    assert "1  test/cat/dog.png" in out
    assert "test/dog/again.png" in out
    assert "same file" in out
    assert max(map(len, out.splitlines()[:-1])) <= 80
    assert "unreadable" in err
    assert str(mixed_up / "test") in page.read_text(encoding="utf-8")
    assert main.run([*words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["suspects"][0]["label"] == "cat"
    assert record["suspects"][0]["suggested"] == "dog"
    assert record["suspects"][0]["rank"] == 1
    assert record["page"] is None


def test_check_refuses(tmp_path: Path, photos: Path, tiny_model: Path) -> None:
    one = tmp_path / "one"
    shutil.copytree(photos / "cat", one / "cat")
    with pytest.raises(sz.UserError, match="only one class"):
        sz.check_labels(sz.load(tiny_model), one)
    with pytest.raises(sz.UserError, match=r"odds 0\.5"):
        sz.check_labels(sz.load(tiny_model), photos, odds=0.5)
    with pytest.raises(sz.UserError, match="no such folder"):
        sz.check_labels(sz.load(tiny_model), tmp_path / "none")


def test_suggestions_are_new_images(
    finished_run: Path, album: Path, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = sz.Run.load(finished_run)
    found = sz.suggest(run, album, 4, recursive=True)
    assert found.images == 9  # copies at other places are images of their own
    assert found.known == len(run.record.images.train) + len(run.record.images.val)
    assert 1 <= len(found.items) <= 4
    assert "1 .mov" in caplog.text
    for item in found.items:
        assert item.path.is_relative_to(album)
        assert item.label in run.prompt.class_names
        assert sum(share for _, share in item.choices) == pytest.approx(1, abs=1e-5)
        assert item.uncertainty == pytest.approx(1 - item.choices[0][1] + item.choices[1][1], abs=1e-5)
    used = {photos / path for path, _ in (*run.record.images.train, *run.record.images.val)}
    own = sz.suggest(run, photos, 99, recursive=True)
    assert own.images == 36 - len(used)
    assert not used & {item.path for item in own.items}


def test_suggest_as_a_command(
    finished_run: Path, album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "next.html"
    words = ["suggest", str(finished_run), str(album), "--recursive", "--count", "3", "--page", str(page)]
    assert main.run(words) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].startswith("image")
    assert f"page: {page}" in out
    assert main.run([*words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["page"] == str(page)
    assert 1 <= len(record["suggestions"]) <= 3
    assert Path(record["suggestions"][0]["path"]).is_file()


def test_numbers_of_rows_take_equal_columns(photos: Path) -> None:
    item = Suggestion(photos / "a.jpg", (("cat", 0.6), ("owl", 0.4)), 0.8, foreign=False)
    found = sz.Suggestions(photos, (item,) * 10, 10, 0, ("cat", "owl"), ("cat", "owl"))
    rows = format_suggestions(found).splitlines()
    assert rows[9].startswith(" 9  a.jpg")
    assert rows[10].startswith("10  a.jpg")


def test_suggest_refuses_and_a_run_whose_images_are_gone(
    finished_run: Path, album: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(sz.UserError, match="no unlabelled image"):
        sz.suggest(finished_run, tmp_path / "empty")
    with pytest.raises(sz.UserError, match="count 0"):
        sz.suggest(finished_run, album, 0)
    folder = shutil.copytree(finished_run, tmp_path / "run")
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "dataset": str(tmp_path / "gone")}))
    assert sz.suggest(folder, album, 2).known == 24  # the run has kept their features
    (folder / "labelled.safetensors").unlink()
    assert sz.suggest(folder, album, 2).known == 0
    assert "images of the run are gone" in caplog.text


def test_a_page_is_checked_before_the_work(refused: object, photos: Path, tiny_model: Path, tmp_path: Path) -> None:
    assert callable(refused)
    line = refused("check", photos, "--model", tiny_model, "--page", tmp_path / "page.txt")
    assert "end its name in .html" in line


@pytest.mark.parametrize("name", ["metadata.csv", "labels.csv"])
def test_labels_of_a_list_are_checked_and_get_no_page(
    refused: Callable[..., str], photos: Path, tiny_model: Path, tmp_path: Path, name: str
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    rows = []
    for number, path in enumerate(sorted(photos.glob("*/*.png"))):
        shutil.copy(path, data / f"{number}.png")
        rows.append(f"{number}.png,{path.parent.name}")
    (data / name).write_text("\n".join(["file_name,label", *rows]))
    dataset = data if name == "metadata.csv" else data / name
    found = sz.check_labels(sz.load(tiny_model), dataset, odds=1)
    assert found.images == len(rows)
    assert found.folder == data
    assert not found.by_folder
    line = refused("check", dataset, "--model", tiny_model, "--page", tmp_path / "page.html")
    assert "its labels stand in a file" in line
    assert not (tmp_path / "page.html").exists()


def test_names_are_cut_by_columns() -> None:
    assert shorten("東京の犬", 8) == "東京の犬"
    assert shorten("東京の犬", 7) == "…京の犬"
    assert shorten("a\nb", 9) == "a\\nb"
    assert shorten("long/name.jpg", 9) == "…name.jpg"
    assert shorten("of long words", 9, keep="beginning") == "of long …"
    assert shorten("e\u0301" * 5, 5) == "e\u0301" * 5


def test_columns_of_wide_names_stand_below_each_other() -> None:
    assert aligned([("class", "images"), ("東京の犬", "2"), ("cat", "11")]).splitlines() == [
        "class     images",
        "東京の犬       2",
        "cat           11",
    ]


def test_the_images_of_a_listed_run_are_not_suggested(finished_run: Path, photos: Path, tmp_path: Path) -> None:
    data, folder = shutil.copytree(photos, tmp_path / "data"), shutil.copytree(finished_run, tmp_path / "run")
    (data / "labels.csv").touch()  # names of a listed run's images start at the list's folder
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "dataset": str(data / "labels.csv")}))
    assert sz.suggest(folder, data, 99, recursive=True).images == 36 - 24
    (folder / "labelled.safetensors").unlink()
    assert sz.suggest(folder, data, 99, recursive=True).known == 24
