"""One addition to a run: what is new is read, the head is fitted anew, and a version of the run is written.

yield from Adding(run, clip, [Path("more")], ("red panda",)).steps()
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import mlx.core as mx
import numpy as np

from sharpzo_mlx.adding.new_images import NewImages, read_new_images
from sharpzo_mlx.adding.old_images import read_old_images
from sharpzo_mlx.adding.refit import append_images, compare_classes, compare_heads, refit
from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.datasets.templates import PLAIN
from sharpzo_mlx.errors import notify
from sharpzo_mlx.features.extract import Features, relay
from sharpzo_mlx.features.views import VIEWS, encode_views_steps
from sharpzo_mlx.files import root_of
from sharpzo_mlx.heads.fit import FittedHead
from sharpzo_mlx.heads.labelled_set import LabelledSet
from sharpzo_mlx.objective.loss import mark_right
from sharpzo_mlx.prompts.context_features import context_features
from sharpzo_mlx.prompts.ensemble import check_lengths, template_features
from sharpzo_mlx.prompts.prompt import Prompt
from sharpzo_mlx.runs.history import keep_version, present_version, switch_to
from sharpzo_mlx.runs.labelled import LabelledImages
from sharpzo_mlx.runs.record import RunRecord, RunResults
from sharpzo_mlx.runs.resume import list_rows, restore_images
from sharpzo_mlx.runs.run import RECORD, Run
from sharpzo_mlx.runs.version_record import AccuracyChange, Version
from sharpzo_mlx.tuning.beside_head import FEW
from sharpzo_mlx.tuning.encoding import Encoding, encode_test
from sharpzo_mlx.tuning.pipeline import Done

DATE = "%Y-%m-%d %H:%M"


@dataclass(frozen=True)
class _Words:
    """Class features of all classes [K, D]: of the plain words, and of the tuned ones."""

    plain: mx.array
    tuned: mx.array


@dataclass(frozen=True)
class _Fitted:
    """The classifier of a new version, with what says how good it is before test images are read."""

    prompt: Prompt
    results: RunResults
    labelled: LabelledImages
    accuracies: tuple[AccuracyChange, ...]
    by_class: tuple[AccuracyChange, ...]


class Adding:
    """One addition to a run whose folder is held."""

    def __init__(self, run: Run, clip: Clip, folders: list[Path], names: tuple[str, ...]) -> None:
        self.run, self.clip, self.folders, self.names = run, clip, folders, names
        self.began = time.monotonic()

    def steps(self) -> Iterator[Encoding | Done]:
        """Carry it out."""
        run = self.run
        check_lengths(self.clip.tokenizer, (run.prompt.template, *run.record.templates), self.names)
        labelled = yield from read_old_images(self.clip, run)
        new = yield from read_new_images(self.clip, run, labelled, self.folders, self.names)
        if new.nothing:
            notify(f"{run.folder}: nothing to add, so it stays as it is")
            yield Done(run)
            return
        if new.named:
            names = ", ".join(new.named)
            it = "it" if len(new.named) == 1 else "each"
            notify(
                f"{names}: by name alone, so no image tells how well {it} is found; add a few images of {it} to know"
            )
        words = self._find_words(new.features)
        if run.config.head == "none":
            fitted = self._without_head(labelled, new, words)
        else:
            views = yield from self._encode_views(labelled, new.features)
            fitted = self._with_head(labelled, new.features, words, views)
        results, tested = yield from self._test(fitted)
        yield Done(self._keep(new, replace(fitted, results=results, accuracies=(*fitted.accuracies, *tested))))

    def _find_words(self, new: Features) -> _Words:
        """Return the class features of all classes; those of the old ones are as they are."""
        prompt, clip = self.run.prompt, self.clip
        names = new.class_names[len(prompt.class_names) :]
        if not names:
            return _Words(prompt.zero_shot_features, prompt.class_features)
        template = prompt.template or PLAIN
        plain = tuned = template_features(clip, self.run.record.templates or (template,), names)
        if mx.any(prompt.w != 0).item():
            own = template_features(clip, (template,), names) if self.run.record.templates else plain
            tuned = plain + context_features(clip, template, prompt.context, names) - own
        return _Words(
            mx.concatenate([prompt.zero_shot_features, plain]), mx.concatenate([prompt.class_features, tuned])
        )

    def _encode_views(self, old: LabelledImages, new: Features) -> Generator[Encoding, None, mx.array | None]:
        """Return the means of the new images' views if the run learned from views, and these still pay."""
        views = choose_views(self.run.config, old.images, len(old.images.labels) + len(new.labels), len(new.folders))
        if not views:
            return None
        steps = encode_views_steps(self.clip, new, views=views)
        return (yield from relay(steps, lambda progress: Encoding.of("views of added", progress)))

    def _with_head(self, old: LabelledImages, new: Features, words: _Words, views: mx.array | None) -> _Fitted:
        prompt, scale = self.run.prompt, self.run.prompt.logit_scale
        before = refit(prompt.zero_shot_features, prompt.class_features - prompt.zero_shot_features, scale, old.images)
        images = append_images(old.images, new, views)
        after = refit(words.plain, words.tuned - words.plain, scale, images)
        leaves_out = len(old.images.labels) > len(np.unique(old.images.labels))
        return _Fitted(
            self._make_prompt(new, words, after),
            self._with_shares(after),
            replace(old, images=images, digests=(*old.digests, *new.digests)),
            compare_heads(before, after, prompt, new) if leaves_out else (),
            compare_classes(before, after, prompt.class_names) if leaves_out else (),
        )

    def _with_shares(self, after: FittedHead) -> RunResults:
        results, head = self.run.results, after.head
        assert results.head is not None, "a run with a head says what it is made of"
        shares = replace(results.head, text=head.text_share, image=head.image_share, named=head.named_share)
        return replace(
            results,
            val=after.accuracy,
            zero_shot=after.zero_shot_accuracy,
            zero_shot_val=after.zero_shot_accuracy,
            head=shares,
        )

    def _without_head(self, old: LabelledImages, new: NewImages, words: _Words) -> _Fitted:
        """Return the words with new ones among them, judged by the validation images."""
        prompt = self._make_prompt(new.features, words, None)
        images = old.images
        rows = slice(images.training, images.training + old.validation)
        x, labels = mx.array(images.embeddings[rows]), images.labels[rows]
        after, plain = _accuracy(prompt.logits(x), labels), _accuracy(prompt.zero_shot_logits(x), labels)
        results = replace(self.run.results, val=after, zero_shot=plain, zero_shot_val=plain)
        change = AccuracyChange("validation", len(labels), _accuracy(self.run.prompt.logits(x), labels), after)
        return _Fitted(prompt, results, old, (change,), ())

    def _make_prompt(self, new: Features, words: _Words, head: FittedHead | None) -> Prompt:
        return replace(
            self.run.prompt,
            class_features=words.tuned,
            zero_shot_features=words.plain,
            class_names=new.class_names,
            folders=new.folders,
            head=None if head is None else head.head,
        )

    def _test(self, fitted: _Fitted) -> Generator[Encoding, None, tuple[RunResults, tuple[AccuracyChange, ...]]]:
        """Measure the test split, from which nothing is chosen."""
        run, prompt, results = self.run, fitted.prompt, fitted.results
        if run.record.images.test is None:
            return replace(results, test=None, test_text=None), ()
        images = restore_images(Path(run.record.dataset), run.record, run.record.images.test)
        record = run.record
        test = yield from encode_test(self.clip, run, images)
        run.record = record  # where no test image can be read now, one may be later
        if test is None:
            return replace(results, test=None, test_text=None), ()
        x, labels = test.embeddings, test.labels
        before, after = (_accuracy(one.logits(x), labels) for one in (run.prompt, prompt))
        results = replace(results, zero_shot=_accuracy(prompt.zero_shot_logits(x), labels), test=after)
        if results.head is not None:
            results = replace(results, test_text=_accuracy(prompt.text_logits(x), labels))
        return results, (AccuracyChange("test", len(labels), before, after),)

    def _keep(self, new: NewImages, fitted: _Fitted) -> Run:
        """Write the new version, and the first one before it, and make it the present one."""
        run, now = self.run, present_version(self.run)
        if run.record.version is None:
            made = datetime.fromtimestamp((run.folder / RECORD).stat().st_mtime).strftime(DATE)
            keep_version(run, replace(now, date=made), None)
        version = Version(
            number=now.latest + 1,
            latest=now.latest + 1,
            date=datetime.now().strftime(DATE),
            parent=now.number,
            folders=tuple(str(folder.resolve()) for folder in self.folders),
            images=len(new.features.labels),
            classes=new.classes,
            named=new.named,
            accuracies=fitted.accuracies,
            by_class=fitted.by_class,
            seconds=round(time.monotonic() - self.began, 3),
        )
        changed = Run(run.folder, run.config, self._extend_record(new.features), fitted.results, run.place)
        changed.__dict__["prompt"] = fitted.prompt
        keep_version(changed, version, fitted.labelled)
        return switch_to(run, version.number)

    def _extend_record(self, new: Features) -> RunRecord:
        record = self.run.record
        rows = list_rows(new.paths, new.labels.tolist(), str(root_of(record.dataset)))
        images = replace(record.images, added=(*(record.images.added or ()), *rows))
        return replace(record, class_names=new.class_names, class_folders=new.folders, images=images)


def choose_views(config: TuneConfig, old: LabelledSet, images: int, classes: int) -> int:
    """Return how many views of each new image a head learns from; 0 if the run learned from none, or they pay no more.

    Args:
        config: of the run.
        old: its labelled images.
        images: how many labelled images there are with the new ones.
        classes: how many classes.
    """
    if old.averages is None:
        return 0
    if config.views is not None:
        return config.views
    return VIEWS if images <= FEW * classes else 0


def _accuracy(logits: mx.array, labels: np.ndarray) -> float:
    return float(mark_right(np.array(logits), labels).mean()) if len(labels) else 0.0
