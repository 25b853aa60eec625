"""Run all methods of a comparison on one dataset: the same splits, the same features and the same query budget.

For each seed the split is drawn as `tune` draws it and encoded once, and every method gets the same task. Results that
are in the store already are taken from there. A method that fails leaves its message, and the others are run.

>>> runner = DatasetRunner(clip, source, ResultStore(folder), variants)  # doctest: +SKIP
>>> dataset_result = yield from runner.steps(seeds, done=0, total=total)  # doctest: +SKIP
"""

from __future__ import annotations

import traceback
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TypeAlias, cast

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.comparison.cells import WORK, Cell, describe_failure
from sharpzo_mlx.comparison.measuring import measure_method
from sharpzo_mlx.comparison.methods.method import Method, Progress, Task
from sharpzo_mlx.comparison.record import DatasetResult
from sharpzo_mlx.comparison.results import (
    Measurements,
    MethodResult,
    ResultKey,
    ResultSettings,
    ResultStore,
    source_digest,
)
from sharpzo_mlx.comparison.sources import DatasetSource, EvaluationImages, EvaluationParts, digest_images
from sharpzo_mlx.comparison.variants import MethodVariant
from sharpzo_mlx.datasets.evaluation_sets import EvaluationSet
from sharpzo_mlx.evaluation.overlap import UsedImages
from sharpzo_mlx.features.digests import report_cloud_only
from sharpzo_mlx.features.extract import cache_name, name_model, relay
from sharpzo_mlx.objective.backend import allowed_memory
from sharpzo_mlx.runs.versions import versions
from sharpzo_mlx.runtime.helpers import Helpers, current
from sharpzo_mlx.runtime.limits import bounded_cache
from sharpzo_mlx.tuning.encoding import Encoding, check_classes, encode_split

_Place: TypeAlias = tuple[int, int]  # a seed, and the position of a variant
_Results: TypeAlias = dict[_Place, MethodResult]


@dataclass(frozen=True)
class Working:
    """A method is running.

    Attributes:
        dataset: name of the dataset.
        method: title of the method.
        variant: which of its options.
        seed: the seed.
        budget: its query budget.
        progress: where it stands.
    """

    dataset: str
    method: str
    variant: str
    seed: int
    budget: int
    progress: Progress


@dataclass(frozen=True)
class Finished:
    """One result is there.

    Attributes:
        result: the result.
        found: whether it was in the store already.
        done: results so far.
        total: results of the whole comparison.
    """

    result: MethodResult
    found: bool
    done: int
    total: int


@dataclass(frozen=True)
class _SeedTask:
    """What one seed gives to every method."""

    task: Task
    evaluation: EvaluationParts
    digest: str  # of all images


def _place_in_queue(method: Method) -> int:
    """Return 0 for the methods that take longest, so that no helper begins one when all others are done."""
    return 0 if method.reads_images else 1 if method.makes_queries or method.backpropagation else 2


class DatasetRunner:
    """Runs all methods on one dataset.

    Args:
        clip: the checkpoint.
        source: the dataset.
        store: the files of the results.
        variants: the methods and their options.
    """

    def __init__(
        self, clip: Clip, source: DatasetSource, store: ResultStore, variants: Sequence[MethodVariant]
    ) -> None:
        self.clip, self.source, self.store, self.variants = clip, source, store, variants
        self._encoded: dict[str, EvaluationImages] = {}  # test images are mostly the same for all seeds
        self._reported: set[str] = set()  # shifted folders whose overlap has been reported

    def steps(
        self, seeds: int, *, done: int, total: int
    ) -> Generator[Encoding | Working | Finished, None, DatasetResult]:
        """Run every method on every seed, and return all results.

        Args:
            seeds: how many, from 0; at least one.
            done: results on the datasets before this one.
            total: results of the whole comparison.
        """
        prepared = []
        results: dict[tuple[int, int], MethodResult] = {}
        for seed in range(seeds):
            prepared.append((yield from self._prepare(seed)))
            if current() is None:
                cells = [(seed, place) for place in range(len(self.variants))]
                yield from self._run_here(prepared, cells, results, (done, total))
        if helpers := current():
            yield from self._hand_out(helpers, prepared, results, (done, total))
        ordered = tuple(results[cell] for cell in sorted(results))
        task = prepared[-1].task
        images = {"train": len(task.train.paths), "val": len(task.val.paths)}
        if "test" in prepared[-1].evaluation:
            images["test"] = sum(map(len, prepared[-1].evaluation["test"]))
        return DatasetResult(self.source.name, self.source.path, len(task.train.class_names), images, ordered)

    def _run_here(
        self, prepared: Sequence[_SeedTask], cells: Sequence[_Place], results: _Results, counts: tuple[int, int]
    ) -> Generator[Working | Finished, None, None]:
        """Find or run the results of some seeds and variants in this process."""
        for seed, place in cells:
            result, found = yield from self._find_or_run(self.variants[place], prepared[seed])
            results[seed, place] = result
            yield Finished(result, found, counts[0] + len(results), counts[1])

    def _hand_out(
        self, helpers: Helpers, prepared: Sequence[_SeedTask], results: _Results, counts: tuple[int, int]
    ) -> Generator[Working | Finished, None, None]:
        """Find results or have helpers run them, and run here what those cannot."""
        missing, unseen = [], []
        for cell in product(range(len(prepared)), range(len(self.variants))):
            if known := self.store.find(self._make_key(self.variants[cell[1]], prepared[cell[0]])):
                results[cell] = known
                yield Finished(known, True, counts[0] + len(results), counts[1])
            else:
                missing.append(cell)
        missing.sort(key=lambda cell: _place_in_queue(self.variants[cell[1]].method))
        pieces = (Cell.of(self.variants[p], prepared[s].task, prepared[s].evaluation) for s, p in missing)
        for number, answer in helpers.perform(WORK, pieces, name_model(self.clip)):
            seed, place = missing[number]
            if answer.unseen:
                unseen.append(missing[number])
                continue
            key = self._make_key(self.variants[place], prepared[seed])
            result = key.succeed(answer.measurements) if answer.measurements else key.fail(answer.error)
            self.store.save(key, result, dataset_path=self.source.path, traceback=answer.trace or None)
            results[seed, place] = result
            yield Finished(result, False, counts[0] + len(results), counts[1])
        yield from self._run_here(prepared, unseen, results, counts)

    def _prepare(self, seed: int) -> Generator[Encoding, None, _SeedTask]:
        """Encode the images of a seed."""
        split, shifted = self.source.draw(seed)
        drawn = [*split.values(), *(part for parts in shifted.values() for part in parts)]
        report_cloud_only(path for part in drawn for path in part.images.paths)
        train = yield from encode_split(self.clip, split["train"].images, "train")
        check_classes(train)
        val = yield from encode_split(self.clip, split["val"].images, "val")
        sets = {"test": [split["test"]], **shifted} if "test" in split else shifted
        evaluation: dict[str, list[EvaluationImages]] = {name: [] for name in sets}
        for name, parts in sets.items():
            for number, images in enumerate(parts):
                evaluation[name].append((yield from self._encode(f"{name}{number or ''}", images)))
        self.clip.release_vision()
        user = f"what is tuned on {self.source.name} (seed {seed})"
        self._report_overlap(UsedImages(user, (*train.paths, *val.paths)), evaluation)
        config = replace(self.source.config, seed=seed)
        task = Task(self.clip, train, val, config, cast(int, config.query_budget))
        return _SeedTask(task, evaluation, digest_images(train, val, evaluation))

    def _encode(self, name: str, images: EvaluationSet) -> Generator[Encoding, None, EvaluationImages]:
        known = self._encoded.get(name)
        if known is None or known.images.images != images.images:
            known = EvaluationImages(images, (yield from encode_split(self.clip, images.images, name)))
            self._encoded[name] = known
        return known

    def _report_overlap(self, used: UsedImages, evaluation: EvaluationParts) -> None:
        """Give one notice for each shifted folder that holds images which methods are trained on."""
        for name, folder in self.source.shift.items():
            paths = [path for part in evaluation[name] for path in part.features.paths]
            if name not in self._reported and (count := used.count(paths)):
                self._reported.add(name)
                used.report(folder, count, len(paths))

    def _find_or_run(
        self, variant: MethodVariant, prepared: _SeedTask
    ) -> Generator[Working, None, tuple[MethodResult, bool]]:
        """Return the result, and whether it was in the store already."""
        key = self._make_key(variant, prepared)
        if known := self.store.find(key):
            return known, True
        trace = None
        try:
            result = key.succeed((yield from self._run(variant, prepared)))
        except Exception as error:  # whatever fails in a method, the others are run
            trace = traceback.format_exc()
            result = key.fail(describe_failure(error))
        finally:
            self.clip.release_text()
            self.clip.release_vision()
        self.store.save(key, result, dataset_path=self.source.path, traceback=trace)
        return result, False

    def _make_key(self, variant: MethodVariant, prepared: _SeedTask) -> ResultKey:
        config = prepared.task.config
        settings = ResultSettings(
            options=dict(variant.options),
            own_code=variant.has_own_code,
            config=config.to_json(),
            model=cache_name(self.clip),
            data=prepared.digest,
            versions=versions(),
            sources=source_digest(),
        )
        return ResultKey(self.source.name, variant.method.name, variant.variant, config.seed, settings)

    def _run(self, variant: MethodVariant, prepared: _SeedTask) -> Generator[Working, None, Measurements]:
        task = prepared.task
        features_bytes = sum(one.features.embeddings.nbytes for one in self._encoded.values())
        steps = measure_method(variant, task, prepared.evaluation, features_bytes=features_bytes)
        names = self.source.name, variant.method.title, variant.variant
        with bounded_cache(allowed_memory(task.config.memory_budget)):
            return (
                yield from relay(steps, lambda progress: Working(*names, task.config.seed, task.query_budget, progress))
            )
