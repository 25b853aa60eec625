"""Fields of every JSON file that is read, replaced by what no writer puts there: a result, or one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from damaged_models import copy, unsign
from hf_checkpoint import write_checkpoint
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from odd_json import VALUES, fields_replaced
from split_files import make_split

import sharpzo_mlx as sz
from sharpzo_mlx.clip.checkpoint import load_config
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.tokenizer import Tokenizer
from sharpzo_mlx.comparison.results import Measurements, ResultKey, ResultSettings, ResultStore
from sharpzo_mlx.comparison.tables import make_rows
from sharpzo_mlx.convert import convert
from sharpzo_mlx.datasets.coop import read_split_file
from sharpzo_mlx.datasets.folder import read_folder
from sharpzo_mlx.datasets.mapping import apply_mapping
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.evaluation.reports import EVALUATIONS, keep_evaluations, read_entries
from sharpzo_mlx.reading import parse_json
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.runs.step_log import read_steps

SLOW, QUICK = 30, 100  # examples of a reader that opens weights, and of the others
Use = Callable[[], object]


def check(path: Path, strategy: st.SearchStrategy[str], use: Use, *, count: int = QUICK, refused: bool = True) -> None:
    """Write each text in the place of a file and use it: only a UserError of one line that names the file may come.

    Args:
        path: the file, which is there again at the end.
        strategy: the texts.
        use: what reads the file.
        count: of the examples.
        refused: whether damage may be refused; else what is damaged is left out.
    """
    whole, refusals = path.read_bytes(), []

    @settings(
        max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(strategy)
    def attempt(text: str) -> None:
        path.write_bytes(text.encode(errors="surrogatepass"))
        try:
            use()
        except UserError as error:
            line = str(error)
            assert path.name in line or str(path.parent) in line, line
            assert line.isprintable(), line
            assert len(line) < 1000 + len(str(path)), line
            refusals.append(line)

    try:
        attempt()
    finally:
        path.write_bytes(whole)
    assert bool(refusals) == refused


@pytest.fixture(scope="module")
def run(finished_run: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished run that was also evaluated."""
    folder = shutil.copytree(finished_run, tmp_path_factory.mktemp("fields") / "run")
    keep_evaluations(Run.load(folder), sz.evaluate(Run.load(folder), photos))
    return folder


# the strategies themselves


@settings(max_examples=100, derandomize=True, deadline=None)
@given(VALUES)
@example("9" * 5000)
@example("[" * 100_000)
def test_any_value_is_json_or_a_value_error(text: str) -> None:
    try:
        found = parse_json(text)
    except ValueError as error:
        refusal = str(error)
        assert len(refusal) < 200
    else:
        assert parse_json(json.dumps(found)) == found


# runs


def test_run_json(run: Path) -> None:
    def use() -> None:
        loaded = Run.load(run)
        loaded.save()
        again = Run.load(run)
        assert (again.record, again.config, again.current_results) == (
            loaded.record, loaded.config, loaded.current_results,
        )  # fmt: skip
        assert loaded.prompt.class_names == loaded.record.class_names
        assert loaded.model_folder.is_dir() or not loaded.model_folder.is_file()

    check(run / "run.json", fields_replaced((run / "run.json").read_text()), use)


def test_steps(run: Path) -> None:
    path = run / "steps.jsonl"
    first, *rest = path.read_text().splitlines()
    texts = fields_replaced(first).map(lambda line: "\n".join([line, *rest, ""]))
    check(path, texts, lambda: [json.dumps(step.to_json(), allow_nan=False) for step in read_steps(run)])


def test_evaluations(run: Path) -> None:
    path, loaded = run / EVALUATIONS, Run.load(run)
    texts = fields_replaced(path.read_text())
    check(
        path, texts, lambda: json.dumps([one.to_json() for one in read_entries(loaded)], allow_nan=False), refused=False
    )


def test_a_cell_of_a_comparison(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    key = ResultKey("photos", "sharpzo", "tuned", 0, ResultSettings({}, True, {}, "m", "d", {}, "s"))
    columns = ("queries", "backward_passes", "seconds", "accuracy", "loss", "best_accuracy", "best_loss", "test")
    content = {"test": 0.5, "val": 0.5, "val_loss": 1.0, "shift": {"a": 0.5}, "queries": 3, "image_passes": 0,
               "backward_passes": 0, "seconds": 1.0, "peak_memory_mb": 1.0,
               "curve": {name: [0, 1] for name in columns}}  # fmt: skip
    store.save(key, key.succeed(Measurements.from_json(content)), dataset_path=tmp_path)
    path = store.path(key)
    assert store.find(key) is not None

    def use() -> None:
        if (found := store.find(key)) is not None:
            assert len(make_rows([found])) == 1

    check(path, fields_replaced(path.read_text()), use, refused=False)


# data sets


def test_a_split_file(photos: Path, tmp_path: Path) -> None:
    path = make_split(photos, tmp_path / "data")

    def use() -> None:
        for part in read_split_file(path).values():
            assert all(0 <= label < len(part.class_names) for label in part.labels)

    check(path, fields_replaced(path.read_text()), use)


def test_a_mapping(photos: Path, tmp_path: Path) -> None:
    images, path = read_folder(photos), tmp_path / "map.json"
    path.write_text(json.dumps({"barn owl": "barn owl", "cat": ["cat", "dog"], "dog": None}))

    def use() -> None:
        apply_mapping(images, path, images.class_names, images.folders)

    check(path, fields_replaced(path.read_text()), use)


# models


def test_a_model_config(tiny_model: Path, tmp_path: Path) -> None:
    folder = unsign(copy(tiny_model, tmp_path / "m"))

    def use() -> None:
        config = load_config(folder)
        assert CLIPConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config

    text = (folder / "config.json").read_text()
    check(folder / "config.json", fields_replaced(text), use)
    check(folder / "config.json", fields_replaced(text), lambda: sz.load(folder).encode_texts(["a cat"]), count=SLOW)


def test_a_tokenizer_file(tiny_model: Path, tmp_path: Path) -> None:
    path = copy(tiny_model, tmp_path / "m") / "tokenizer.json"
    check(
        path,
        fields_replaced(path.read_text()),
        lambda: Tokenizer.from_folder(path.parent).encode("a cat\0"),
        count=SLOW,
    )


CHECKPOINT = {
    "config.json": None,
    "preprocessor_config.json": {"size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8}, "resample": 2,
                                 "do_resize": True, "do_center_crop": True, "do_rescale": True, "do_normalize": True,
                                 "rescale_factor": 1 / 255, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5] * 3,
                                 "do_convert_rgb": True},
    "tokenizer_config.json": {"model_max_length": 77, "pad_token": None, "unk_token": {"content": "<|endoftext|>"}},
    "special_tokens_map.json": {"bos_token": {"content": "<|startoftext|>", "lstrip": False},
                                "eos_token": "<|endoftext|>"},
}  # fmt: skip


@pytest.mark.parametrize("name", CHECKPOINT)
def test_a_small_file_of_a_checkpoint(name: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "hf")
    for other, content in CHECKPOINT.items():
        if content is not None:
            (folder / other).write_text(json.dumps(content))

    def use() -> None:
        sz.load(convert(folder, tmp_path / "m", force=True).folder).encode_texts(["a"])

    use()
    check(folder / name, fields_replaced((folder / name).read_text()), use, count=SLOW)


def test_a_refusal_repeats_no_long_text_of_a_file(photos: Path, tmp_path: Path) -> None:
    long, images, mapping = "x" * 9_000 + "\n", read_folder(photos), tmp_path / "map.json"
    mapping.write_text(json.dumps({"cat": [long * 100]}))
    with pytest.raises(UserError, match=r"map.json: 'xxx[^\n]{,100} is not a tuned class"):
        apply_mapping(images, mapping, images.class_names, images.folders)
    split = tmp_path / "split_zhou_x.json"
    lists = {"train": [[long, 0, "cat"], [long, 0, long]], "val": [], "test": []}
    split.write_text(json.dumps(lists))
    with pytest.raises(UserError, match=r"label 0 is both 'cat' and 'xxx[^\n]{,300}; correct the file$"):
        read_split_file(split)
    split.write_text(json.dumps({**lists, "train": lists["train"][:1]}))
    with pytest.raises(UserError, match=r"its image x[^\n]{,300}; add the images$"):
        read_split_file(split)
