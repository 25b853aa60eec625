"""`upload` and back, against a stand-in of the hub on the loopback: one commit, nothing private, equal predictions."""

from __future__ import annotations

import getpass
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_stand_in import TOKEN, Repository, StandIn, serve

pytest.importorskip("huggingface_hub")
MAIN = "from sharpzo_mlx.cli.main import main; main()"
BASE = "owner/random-clip"
CARD = f"---\nlicense: mit\nlibrary_name: mlx\nbase_model: {BASE}\n---\n\n    sharpzo-mlx convert {BASE}\n"
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hub() -> Iterator[StandIn]:
    with serve() as stand_in:
        yield stand_in


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The random model where `convert owner/random-clip` would put it, with the card that it would write."""
    monkeypatch.setenv("SHARPZO_MLX_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "models" / BASE.replace("/", "--")
    shutil.copytree(tiny_model, folder)
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture
def run(finished_run: Path, model: Path, tmp_path: Path) -> Path:
    """The finished run, whose model is the one in the cache."""
    folder = shutil.copytree(finished_run, tmp_path / "own" / "run")
    record = json.loads((folder / "run.json").read_text())
    record["model"]["folder"] = str(model)
    (folder / "run.json").write_text(json.dumps(record))
    return folder


@pytest.fixture
def command(hub: StandIn, tmp_path: Path) -> Command:
    """Run a command line in an own process, because the hub's library reads its variables when it is imported."""

    def start(
        *words: str | Path, token: str = TOKEN, code: str = MAIN, **more: str
    ) -> subprocess.CompletedProcess[str]:
        own = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, words)],
            cwd=tmp_path / "elsewhere",
            env={**plain, **own, "HF_TOKEN": token, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **more},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return start


def test_a_run_comes_back_by_its_name_and_predicts_the_same(
    hub: StandIn, run: Path, photos: Path, command: Command
) -> None:
    sent = command("upload", run, "--to", "ann/pets", "--yes")
    assert sent.returncode == 0, sent.stderr
    assert sent.stdout.splitlines()[-1] == f"{hub.address}/ann/pets"
    repository = hub.repositories["ann/pets"]
    assert repository.private
    assert len(repository.commits) == 2  # the hub's own, and one
    assert set(repository.files) == {".gitattributes", "README.md", "run.json", "prompt.safetensors"}
    assert repository.files["prompt.safetensors"] == (run / "prompt.safetensors").read_bytes()
    before = command("predict", run, photos / "cat", photos / "dog", "--top", "3", "--json")
    after = command("predict", "ann/pets", photos / "cat", photos / "dog", "--top", "3", "--json")
    assert after.returncode == 0, after.stderr
    assert json.loads(after.stdout) == json.loads(before.stdout)
    assert "note: ann/pets: a run from the hub, commit" in after.stderr
    own, theirs = (command("evaluate", name, photos, "--json") for name in (run, "ann/pets"))
    figures = [json.loads(done.stdout)["folders"][0]["tuned"] for done in (own, theirs)]
    assert figures[0] == figures[1]


def test_a_run_is_exported_sorted_by_and_served_by_its_name(
    hub: StandIn, run: Path, photos: Path, tmp_path: Path, command: Command
) -> None:
    assert command("upload", run, "--to", "ann/pets", "--yes").returncode == 0
    for name, to in ((run, "mine"), ("ann/pets", "theirs")):
        done = command("export", name, "--to", "bundle", "--output", tmp_path / to)
        assert done.returncode == 0, done.stderr
    for name in ("classifier.json", "classifier.safetensors"):
        assert (tmp_path / "theirs" / name).read_bytes() == (tmp_path / "mine" / name).read_bytes()
    assert command("export", "ann/pets", "--to", "bundle").returncode == 0
    assert (tmp_path / "elsewhere" / "pets-bundle").is_dir()  # by its own name, not by that of the hub's folder
    words = ("--into", tmp_path / "sorted", "--json")
    own, theirs = (command("sort", name, photos / "cat", *words) for name in (run, "ann/pets"))
    assert theirs.returncode == 0, theirs.stderr
    assert json.loads(theirs.stdout) == json.loads(own.stdout)
    code = (
        "from served import serving\n"
        "with serving('ann/pets') as server:\n"
        "    print(server.get('/health').body.decode().strip()); print(b'<bdi>ann/pets</bdi>' in server.get('/').body)"
    )
    served = command(code=code)
    assert served.returncode == 0, served.stderr
    health, shown = served.stdout.splitlines()
    assert json.loads(health)["run"] == "ann/pets"
    assert (json.loads(health)["labelled_images"], shown) == (0, "True")


def test_a_copy_of_a_run_from_the_hub_works_from_its_folder(
    run: Path, tmp_path: Path, photos: Path, command: Command
) -> None:
    assert command("upload", run, "--to", "ann/pets", "--output", tmp_path / "copy").returncode == 0
    image = photos / "cat" / "0.png"
    own, copied = (command("predict", folder, image, "--json") for folder in (run, tmp_path / "copy"))
    assert copied.returncode == 0, copied.stderr
    assert copied.stdout == own.stdout


def test_nothing_private_is_sent(hub: StandIn, run: Path, model: Path, photos: Path, command: Command) -> None:
    """Lines, headers and bodies of all requests are searched."""
    images = [path.name for path in photos.rglob("*.png")]
    private = [str(photos), str(run), str(model.parent), tempfile.gettempdir(), str(Path.home()), "elsewhere"]
    assert all(any(word in (run / "run.json").read_text() for word in one) for one in (images, [str(photos)]))
    for source, name in ((run, "ann/pets"), (model, "ann/clip")):
        assert command("upload", source, "--to", name, "--yes", USER="secretname").returncode == 0
    everything = [*hub.received, *(content for one in hub.repositories.values() for content in one.files.values())]
    everything = [part for part in everything if b"<|startoftext|>" not in part]  # a vocabulary has all words
    for word in [*private, *images, "secretname"]:
        assert not [part for part in everything if word.encode() in part], word
    texts = b"\n".join(hub.repositories["ann/pets"].files[name] for name in ("README.md", "run.json"))
    names = {getpass.getuser(), platform.node(), platform.node().split(".")[0]}
    for word in filter(lambda name: len(name) > 2, names):
        assert not re.search(rf"\b{re.escape(word)}\b".encode(), texts), word
    assert not any(name.endswith((".png", ".jpg", ".html", ".jsonl")) for name in hub.repositories["ann/pets"].files)


def test_a_model_comes_back_by_convert(hub: StandIn, model: Path, tmp_path: Path, command: Command) -> None:
    (model / "notes.txt").write_text("mine")
    assert command("upload", BASE, "--to", "ann/clip", "--yes", "--public").returncode == 0
    repository = hub.repositories["ann/clip"]
    assert not repository.private
    assert set(repository.files) == {
        ".gitattributes",
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    assert repository.files["model.safetensors"] == (model / "model.safetensors").read_bytes()
    card = repository.files["README.md"].decode()
    assert "license: mit\nlibrary_name: mlx\n" in card
    assert f"base_model: {BASE}\n" in card
    done = command("convert", "ann/clip", "--output", tmp_path / "back")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


STEPS = {
    "create": ("POST /api/repos/create", 403, "the login may not write to ann"),
    "login": ("GET /api/models/ann/pets", 401, "the hub does not accept the login; log in with"),
    "preupload": ("POST /api/models/ann/pets/preupload", 400, "the hub answered 400"),
    "batch": ("POST /ann/pets.git/info/lfs", 413, "the hub has no room left"),
    "object": ("PUT /upload/", 400, "the hub answered 400"),
    "commit": ("POST /api/models/ann/pets/commit", 412, "changed by somebody else"),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_failure_in_the_middle_leaves_nothing_half(hub: StandIn, run: Path, command: Command, step: str) -> None:
    request, status, words = STEPS[step]
    hub.trouble[request] = status
    done = command("upload", run, "--to", "ann/pets", "--yes")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert line.startswith("error: ann/pets: ")
    assert words in line
    assert line.endswith("nothing was sent")
    found = hub.repositories.get("ann/pets")
    assert found is None or (found.private and len(found.commits) == 1)
    hub.trouble.clear()
    assert command("upload", run, "--to", "ann/pets", "--yes").returncode == 0
    assert "run.json" in hub.repositories["ann/pets"].files


def test_a_repository_that_is_there_is_not_made_public_or_mixed(hub: StandIn, run: Path, command: Command) -> None:
    hub.repositories["ann/open"] = Repository(private=False)
    refused = command("upload", run, "--to", "ann/open", "--yes")
    assert "error: ann/open: is public on the hub; add --public" in refused.stderr
    hub.repositories["ann/clip"] = Repository(private=True, commits=[{"model.safetensors": b"x", "notes.md": b"mine"}])
    assert "error: ann/clip: holds a model; choose" in command("upload", run, "--to", "ann/clip", "--yes").stderr
    assert all(len(one.commits) == 1 for one in hub.repositories.values())
    hub.repositories["ann/old"] = Repository(private=True, commits=[{"run.json": b"{}", "notes.md": b"mine"}])
    assert command("upload", run, "--to", "ann/old", "--yes", "--public").returncode == 0
    assert hub.repositories["ann/old"].files["notes.md"] == b"mine"
    assert hub.repositories["ann/old"].private


def test_without_a_login_the_hub_is_not_asked(hub: StandIn, run: Path, command: Command) -> None:
    done = command("upload", run, "--to", "ann/pets", "--yes", token="")
    assert (
        "error: ann/pets: nobody is logged in at the hub; log in with `hf auth login`, or set HF_TOKEN" in done.stderr
    )
    assert "HF_HUB_OFFLINE is set" in command("upload", run, "--to", "a/b", "--yes", HF_HUB_OFFLINE="1").stderr
    assert hub.requests == []


def test_without_a_network_a_run_that_was_loaded_before_still_works(
    hub: StandIn, run: Path, model: Path, photos: Path, command: Command
) -> None:
    command("upload", run, "--to", "ann/pets", "--yes", "--public")
    image = photos / "cat" / "0.png"
    first = command("predict", "ann/pets", image, "--json")
    again = command("predict", "ann/pets", image, "--json", HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout
    shutil.move(model, model.with_name("gone"))
    missing = command("predict", "ann/pets", image)
    assert f"error: ann/pets: its model is not here; make it once: sharpzo-mlx convert {BASE}\n" in missing.stderr
    unknown = command("predict", "ann/dogs", image)
    assert "error: ann/dogs: no such folder here, and no such run on the hub" in unknown.stderr
