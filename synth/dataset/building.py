"""Paints the scenes of a recipe into a dataset, shard by shard. `synth.dataset.image_dataset` shows its files.

Every scene has its own sequence of seeds and is painted from one after another until an image passes. So a row
depends only on its index, the settings and the exclude lists, not on other rows, the number of workers or
interruptions. Near duplicates are the one exception: a last pass finds them in the order of the dataset. The
fingerprint (teacher, template, seed, size, steps, filters, ...) and the number of a shard determine its content, so a
dataset is resumed, or grown, by painting what is missing.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Mapping
from concurrent.futures import Future
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from synth.dataset.card import is_unfinished, refuse_foreign_files, write_card, write_unfinished_card
from synth.dataset.filters import (
    Filters,
    Judged,
    excluded_seeds,
    is_near_duplicate,
    judge_paintings,
    judging,
    refuse_hopeless,
)
from synth.dataset.gallery import write_index, write_page
from synth.dataset.generate import Key, Painter, completed
from synth.dataset.prompts import Template
from synth.dataset.shards import (
    Row,
    num_rows,
    read_rows,
    refuse_another,
    reject_row,
    scene_columns,
    shard_name,
    shard_names,
    write_rejects,
    write_shard,
)
from synth.dataset.store import Store
from synth.errors import DatasetError
from synth.images.encoding import decode_rgb
from synth.settings import SceneSettings
from synth.teacher.identity import identify
from synth.teacher.teacher import Teacher

logger = logging.getLogger(__name__)

Hashes = NDArray[np.uint64]  # or seeds, by index

_LOOK_AHEAD = 1000  # images after a near duplicate, among which the next ones are looked for


def fingerprint(teacher: Teacher, settings: SceneSettings) -> dict[str, Any]:
    """Return all that the pixels depend on, by name. The count is not part of it: a dataset may grow."""
    identity: dict[str, Any] = completed(settings, teacher).model_dump(mode="json", exclude={"count"})
    if settings.filters.clip is not None:
        identity["filters"]["clip"] = identify(settings.filters.clip, DatasetError, "name another with filters.clip")
    if identity["sampler"] == "own":  # as it is in the datasets from before there was another
        del identity["sampler"]
    return {"teacher": teacher.fingerprint, **identity}


def synthesize(teacher: Teacher, settings: SceneSettings, out: str | Path, progress: bool = True) -> Store:
    """Paint `settings.count` scenes into `out`, shard by shard. Images that exist already stay.

    Args:
        teacher: the model that paints.
        settings: what to paint; the teacher's defaults replace None.
        out: the dataset's folder, or a URL that fsspec knows; created if it does not exist.
        progress: whether to log the device and show a bar.

    Returns:
        The store at `out`.

    Raises:
        DatasetError: if the folder holds another recipe's dataset (the message says what differs), a broken shard, or
            more images than requested; if it cannot be written; if the filters reject nearly everything.
        RecipeError: for a template that cannot be filled, or a filter that cannot be used.
        TeacherError: for a prompt that the teacher cannot read, or a CLIP model that cannot be opened.
    """
    builder = DatasetBuilder(teacher, settings, out)
    todo = builder.missing_shards()
    if progress and todo:
        precision = str(teacher.dtype).removeprefix("torch.")
        logger.info("painting with %s on %s in %s", teacher.name, teacher.device, precision)
    done = settings.count - sum(todo.values())
    started = time.perf_counter()
    with tqdm(total=settings.count, initial=done, unit="image", desc="painting", disable=not progress) as bar:
        for number in todo:
            builder.paint_shard(number, bar)
        rate = (settings.count - done) / (time.perf_counter() - started) if todo else 0.0
        builder.finish(rate, bar)
    return builder.store


class DatasetBuilder:
    """Builds a dataset: `paint_shard` for each shard, in any number of workers and any order, then `finish` once.

    Raises:
        DatasetError: for a store or an exclude list that cannot be read.
        RecipeError: for a template that cannot be filled, or a filter that cannot be used.
        TeacherError: for a CLIP model that cannot be opened.
    """

    def __init__(self, teacher: Teacher, settings: SceneSettings, out: str | Path) -> None:
        self.teacher = teacher
        self.store = Store(out)
        self.settings = completed(settings, teacher)
        self.template = Template(self.settings)
        self.identity = fingerprint(teacher, settings)
        self.filters = Filters(settings.filters, teacher.device)
        self.in_thread = teacher.device.type == "cuda"  # a CPU has its hands full with painting
        self._painter = Painter(teacher, self.settings, self.template)
        self._excluded = excluded_seeds(self.store)
        self._columns = scene_columns(settings)

    def missing_shards(self) -> dict[int, int]:
        """Return the shards that are missing, short, or hold a vetoed image: number -> how many images they lack.

        Raises:
            DatasetError: for a broken shard, one of another dataset, or more images than requested.
        """
        refuse_foreign_files(self.store)
        num_images: dict[str, int] = {}
        for name in shard_names(self.store):
            refuse_another(self.store, name, self.identity)
            num_images[name] = num_rows(self.store, name)
        total = sum(num_images.values())
        if total > self.settings.count:
            raise DatasetError(
                f"{self.store} holds {total} images of this recipe, more than the {self.settings.count} requested: "
                f"set scenes.count to {total} or more, or choose another folder"
            )
        missing = {}
        for number in self._numbers():
            name = shard_name(number)
            lacking = len(self._span(number)) - num_images.get(name, 0)
            if lacking > 0:
                missing[number] = lacking
            elif self._excluded:
                seeds = {row["seed"] for row in read_rows(self.store, name, ["seed"])}
                if vetoed := len(seeds & self._excluded):
                    missing[number] = vetoed
        return missing

    def paint_shard(self, number: int, bar: "tqdm[Any]") -> None:
        """Paint the images that a shard lacks, and write the shard."""
        rows, rejects = self._load(number)
        rows = {index: row for index, row in rows.items() if row["seed"] not in self._excluded}
        todo = {index: 0 for index in self._span(number) if index not in rows}
        self._fill(rows, rejects, todo, bar)
        self._write(number, rows, rejects)

    def finish(self, images_per_second: float, bar: "tqdm[Any] | None" = None) -> None:
        """Replace near duplicates, in the order of the dataset; then write the card and the gallery's index.

        Args:
            images_per_second: for the card; 0 if nothing was painted.
            bar: shows the number of near duplicates.
        """
        if (max_bits := self.settings.filters.near_duplicates) is not None:
            # The hashes are a small column: the images are read only where one must go.
            hashes, seeds = np.zeros(self.settings.count, np.uint64), np.zeros(self.settings.count, np.uint64)
            for number in self._numbers():
                for row in read_rows(self.store, shard_name(number), ["index", "phash", "seed"]):
                    hashes[row["index"]], seeds[row["index"]] = int(row["phash"], 16), row["seed"]
            for number in self._numbers():
                self._replace_near_duplicates(number, hashes, seeds, max_bits, bar)
            self._painter.forget()
        if images_per_second or is_unfinished(self.store):
            write_card(self.store, self.settings, self.teacher.name, self.teacher.defaults.licence, images_per_second)
            write_index(self.store)

    def _replace_near_duplicates(
        self, number: int, hashes: Hashes, seeds: Hashes, max_bits: int, bar: "tqdm[Any] | None"
    ) -> None:
        """Replace a shard's near duplicates of earlier images, and their hashes among those of all images."""
        loaded: tuple[dict[int, Row], list[Row]] | None = None
        for index in self._span(number):
            while is_near_duplicate(hashes[index], hashes[:index], max_bits):
                loaded = loaded or self._load(number)
                rows, rejects = loaded
                attempt = self.template.attempt_of(index, rows[index]["seed"])
                image = decode_rgb(rows[index]["image"]["bytes"])
                scene = self.template.scene(index, attempt)
                rejects.append(reject_row(scene, attempt, image, "near duplicate of an earlier image"))
                refuse_hopeless(self.settings.filters, scene, attempt, rejects, Counter())
                del rows[index]
                # The batch has room: for what will be replaced next, as it seems now, and further attempts at this.
                later = (
                    (other, self._next(other, self.template.attempt_of(other, int(seeds[other])) + 1, set()))
                    for other in range(index + 1, min(index + _LOOK_AHEAD, len(hashes)))
                    if is_near_duplicate(hashes[other], hashes[:other], max_bits)
                )
                self._painter.expected = chain(later, ((index, further) for further in count(attempt + 2)))
                self._fill(rows, rejects, {index: attempt + 1}, None)
                hashes[index] = int(rows[index]["phash"], 16)
                if bar is not None:
                    bar.set_postfix(near_duplicates=len(rejects))
        if loaded is not None:
            self._write(number, *loaded)

    def _fill(
        self, rows: dict[int, Row], rejects: list[Row], todo: Mapping[int, int], bar: "tqdm[Any] | None"
    ) -> None:
        """Paint scenes until each has an image that passes, and add to `rows` and `rejects`.

        On a GPU a thread judges and encodes a batch while the next is painted: the same batches, in the same order.

        Args:
            rows: by index; gets what passes.
            rejects: the shard's so far; gets what does not.
            todo: index -> the first attempt to make.
            bar: advances with each image that passes.
        """
        known = {(row["index"], row["attempt"]) for row in rejects}
        queue = deque((index, self._next(index, attempt, known)) for index, attempt in todo.items())
        tried: Counter[str] = Counter()
        judged: Future[list[Judged]] | None = None
        with judging(self.in_thread) as judge:
            while queue or judged is not None:
                painted = None
                # The end of the queue waits for the rejects of the batch before, so that batches stay full.
                if judged is None or len(queue) >= self.settings.batch_size:
                    batch = [queue.popleft() for _ in range(min(self.settings.batch_size, len(queue)))]
                    painted = self._painter.paint(batch)
                if judged is not None:
                    for each in judged.result():
                        self._take(each, rows, rejects, known, queue, tried, bar)
                    judged = None
                if painted is not None:
                    tries = [(self.template.scene(*key), key[1]) for key in batch]
                    judged = judge(judge_paintings, self.filters, tries, painted)

    def _take(
        self,
        judged: Judged,
        rows: dict[int, Row],
        rejects: list[Row],
        known: set[Key],
        queue: deque[Key],
        tried: Counter[str],
        bar: "tqdm[Any] | None",
    ) -> None:
        """Keep an image that passed; put another attempt at a rejected scene to the end of the queue."""
        scene, attempt, reason = judged.scene, judged.attempt, judged.reason
        # Count kinds of reasons: what follows the colon is different for each image.
        tried[reason.partition(":")[0] if reason else "kept"] += 1
        if reason is None:
            rows[scene.index] = judged.row
            if bar is not None:
                bar.set_postfix(rejects=tried.total() - tried["kept"])
                bar.update()
            return
        rejects.append(judged.row)
        known.add((scene.index, attempt))
        queue.append((scene.index, self._next(scene.index, attempt + 1, known)))
        refuse_hopeless(self.settings.filters, scene, attempt, rejects, tried)

    def _next(self, index: int, attempt: int, known: set[Key]) -> int:
        """Return the first attempt from `attempt` on that was neither rejected nor vetoed."""
        while (index, attempt) in known or self.template.seed(index, attempt) in self._excluded:
            attempt += 1
        return attempt

    def _numbers(self) -> range:
        """Return the numbers of all shards."""
        return range(-(-self.settings.count // self.settings.shard_size))

    def _span(self, number: int) -> range:
        """Return the indices of a shard's scenes."""
        start = number * self.settings.shard_size
        return range(start, min(start + self.settings.shard_size, self.settings.count))

    def _load(self, number: int) -> tuple[dict[int, Row], list[Row]]:
        """Return a shard's rows by index, and its rejects; both empty if the shard does not exist."""
        if not self.store.exists(shard_name(number)):
            return {}, []
        rows = {row["index"]: row for row in read_rows(self.store, shard_name(number))}
        rejected = shard_name(number, "rejects")
        return rows, read_rows(self.store, rejected) if self.store.exists(rejected) else []

    def _write(self, number: int, rows: Mapping[int, Row], rejects: list[Row]) -> None:
        """Write the rejects and the page before the shard: a shard that exists is complete."""
        ordered = [rows[index] for index in self._span(number)]
        rejects.sort(key=lambda row: (row["index"], row["attempt"]))
        write_unfinished_card(self.store)  # before the first shard, so that `datasets` opens an unfinished set
        if rejects:
            write_rejects(self.store, shard_name(number, "rejects"), rejects, self.identity)
        write_page(self.store, number, ordered, rejects)
        write_shard(self.store, shard_name(number), ordered, self._columns, self.identity)
