"""Paints the scenes of a recipe into a data set (see `synth.dataset.image_dataset` for what lies where), shard by shard.

Scene i is painted from seed after seed of its own until an image passes, so that a row depends on its index, the
settings and the exclude list alone: not on the other rows, the number of workers, or how often a run was killed. The
one exception is a near duplicate, which is found in a last pass in the order of the set. What a shard holds follows
from the fingerprint (teacher, template, seed, size, steps, filters, ...) and its number, so a set can be continued,
or grown, by painting what is missing.
"""

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from synth.dataset.card import write_card
from synth.dataset.filters import Filters, is_near_duplicate
from synth.dataset.gallery import write_index, write_page
from synth.dataset.generate import completed, paint
from synth.dataset.prompts import Scene, Template
from synth.dataset.shards import (
    Row,
    encoded,
    num_rows,
    read_rows,
    refuse_another,
    shard_name,
    thumbnail,
    write_rejects,
    write_shard,
)
from synth.dataset.store import Store
from synth.errors import DatasetError
from synth.images import decode_rgb
from synth.seeds import derive_seed
from synth.settings import SceneSettings
from synth.state import reading
from synth.teacher.teacher import Teacher

_TRIED, _HOPELESS = 60, 0.9  # after so many images of a shard, so high a share of rejects ends the run
_SAME_WORDS = 3  # attempts at a scene before other values fill its slots: some prompts never pass


def fingerprint(teacher: Teacher, settings: SceneSettings) -> dict[str, Any]:
    """All that the pixels depend on, by name. The count is not part of it: a set may grow."""
    identity: dict[str, Any] = completed(settings, teacher).model_dump(mode="json", exclude={"count"})
    return {"teacher": teacher.fingerprint, **identity}


def synthesize(teacher: Teacher, settings: SceneSettings, out: str | Path, progress: bool = True) -> Store:
    """Paint `settings.count` scenes into `out`, shard by shard; what is there already is kept.

    Args:
        teacher: who paints.
        settings: what to paint; the teacher's defaults fill what they leave open.
        out: the data set's folder, or a URL that fsspec knows; made if need be.
        progress: say which device paints, and show a bar.

    Raises:
        DatasetError: if the folder holds another recipe's set (the message says what differs), a broken shard, or
            more images than are asked for; if it cannot be written; if so much is rejected that the set is hopeless.
        RecipeError: for a template that cannot be filled, or a filter that cannot be used.
        TeacherError: for a prompt that the teacher cannot read, or a CLIP model that cannot be opened.
    """
    painting = DatasetBuilder(teacher, settings, out)
    todo = painting.missing_shards()
    if progress and todo:
        precision = str(teacher.dtype).removeprefix("torch.")
        tqdm.write(f"painting with {teacher.name} on {teacher.device} in {precision}")
    done = settings.count - sum(todo.values())
    started = time.perf_counter()
    with tqdm(total=settings.count, initial=done, unit="image", desc="painting", disable=not progress) as bar:
        for number in todo:
            painting.paint_shard(number, bar)
        rate = (settings.count - done) / (time.perf_counter() - started) if todo else 0.0
        painting.finish(rate, bar)
    return painting.store


class DatasetBuilder:
    """A set on its way: `paint_shard` for each shard, by any number of workers in any order, then `finish` once."""

    def __init__(self, teacher: Teacher, settings: SceneSettings, out: str | Path) -> None:
        self.teacher, self.store = teacher, Store(out)
        self.settings = completed(settings, teacher)
        self.template = Template(self.settings)
        self.identity = fingerprint(teacher, settings)
        self.filters = Filters(settings.filters)
        self._excluded = excluded_seeds(self.store)
        columns: dict[str, type] = {"image": bytes, "prompt": str, "seed": int, "index": int}
        columns |= {"width": int, "height": int, "contrast": float}
        columns |= {"phash": str} if settings.filters.near_duplicates is not None else {}
        columns |= {"clip_score": float} if settings.filters.clip else {}
        self._columns = columns | {f"slot_{name}": str for name in sorted(settings.slots)}

    def missing_shards(self) -> dict[int, int]:
        """The shards that are missing, short, or hold a vetoed image: number -> how many images they lack.

        Raises:
            DatasetError: for another set's shard, a broken one, or more images than are asked for.
        """
        there = self.store.names("data/train-*.parquet")
        kept: dict[str, int] = {}
        for name in there:
            refuse_another(self.store, name, self.identity)
            kept[name] = num_rows(self.store, name)
        if sum(kept.values()) > self.settings.count:
            raise DatasetError(
                f"{self.store} holds {sum(kept.values())} images of this recipe and {self.settings.count} are asked "
                f"for: set scenes.count to {sum(kept.values())} or more, or choose another folder"
            )
        lacking = {}
        for number in range(-(-self.settings.count // self.settings.shard_size)):
            name, wanted = shard_name(number), len(self._span(number))
            if kept.get(name, 0) < wanted:
                lacking[number] = wanted - kept.get(name, 0)
            elif self._excluded:
                seeds = {row["seed"] for row in read_rows(self.store, name, ["seed"])}
                if vetoed := len(seeds & self._excluded):
                    lacking[number] = vetoed
        return lacking

    def paint_shard(self, number: int, bar: "tqdm[Any]") -> None:
        """Paint what a shard lacks and write it, whole."""
        rows, rejects = self._load(number)
        rows = {index: row for index, row in rows.items() if row["seed"] not in self._excluded}
        todo = {index: 0 for index in self._span(number) if index not in rows}
        self._fill(rows, rejects, todo, bar)
        self._write(number, rows, rejects)

    def finish(self, images_per_second: float, bar: "tqdm[Any] | None" = None) -> None:
        """Replace near duplicates, in the order of the set; then write the card and the gallery's index."""
        most = self.settings.filters.near_duplicates
        if most is not None:
            seen = np.zeros(self.settings.count, np.uint64)
            for number in range(-(-self.settings.count // self.settings.shard_size)):
                self._replace_near_duplicates(number, seen, most, bar)
        if images_per_second or not self.store.exists("README.md"):
            write_card(self.store, self.settings, self.teacher.name, self.teacher.defaults.licence, images_per_second)
            write_index(self.store)

    def _replace_near_duplicates(
        self, number: int, seen: NDArray[np.uint64], most: int, bar: "tqdm[Any] | None"
    ) -> None:
        span = self._span(number)
        hashes = {row["index"]: row["phash"] for row in read_rows(self.store, shard_name(number), ["index", "phash"])}
        loaded: tuple[dict[int, Row], list[Row]] | None = None
        for index in span:
            while is_near_duplicate(hashes[index], seen[:index], most):
                loaded = loaded or self._load(number)
                rows, rejects = loaded
                attempt = self._attempt_of(rows[index])
                image = decode_rgb(rows[index]["image"]["bytes"])
                scene = self._scene(index, attempt)
                rejects.append(self._reject(scene, attempt, image, "near duplicate of an earlier image"))
                self._refuse_hopeless(scene, attempt, rejects, Counter())
                del rows[index]
                self._fill(rows, rejects, {index: attempt + 1}, None)
                hashes[index] = rows[index]["phash"]
                if bar is not None:
                    bar.set_postfix(near_duplicates=len(rejects))
            seen[index] = int(hashes[index], 16)
        if loaded is not None:
            self._write(number, *loaded)

    def _fill(
        self, rows: dict[int, Row], rejects: list[Row], todo: Mapping[int, int], bar: "tqdm[Any] | None"
    ) -> None:
        """Paint scenes, index -> first attempt, until each has an image that passes."""
        known = {(row["index"], row["attempt"]) for row in rejects}
        queue = [(index, self._next(index, attempt, known)) for index, attempt in todo.items()]
        tried: Counter[str] = Counter()
        while queue:
            batch, queue = queue[: self.settings.batch_size], queue[self.settings.batch_size :]
            scenes = [self._scene(index, attempt) for index, attempt in batch]
            self.teacher.check_prompts([scene.prompt for scene in scenes])
            for (index, attempt), scene, image in zip(
                batch, scenes, paint(self.teacher, self.settings, scenes), strict=True
            ):
                reason: str | None = "safety checker"
                if image is not None:
                    verdict = self.filters.judge(scene, np.asarray(image))
                    reason = verdict.reason
                tried[reason.partition(":")[0] if reason else "kept"] += 1
                if reason is None and image is not None:
                    rows[index] = self._row(scene, image, verdict.scores)
                    if bar is not None:
                        bar.set_postfix(rejects=tried.total() - tried["kept"])
                        bar.update()
                    continue
                rejects.append(self._reject(scene, attempt, image, reason or ""))
                known.add((index, attempt))
                queue.append((index, self._next(index, attempt + 1, known)))
                self._refuse_hopeless(scene, attempt, rejects, tried)

    def _refuse_hopeless(self, scene: Scene, attempt: int, rejects: Sequence[Row], tried: Counter[str]) -> None:
        if attempt + 1 >= self.settings.filters.max_attempts:
            reasons = [row["reason"] for row in rejects if row["index"] == scene.index]
            raise DatasetError(
                f"scene {scene.index}, {scene.prompt!r}, was rejected {len(reasons)} times, last for: {reasons[-1]}. "
                "Reword the template, or loosen scenes.filters; the shards that are whole stay"
            )
        if tried.total() >= _TRIED and tried["kept"] < (1 - _HOPELESS) * tried.total():
            why = ", ".join(f"{count} {reason}" for reason, count in tried.most_common(4))
            raise DatasetError(
                f"of {tried.total()} images {tried['kept']} were kept ({why}): "
                "loosen scenes.filters, or reword the template; the shards that are whole stay"
            )

    def _scene(self, index: int, attempt: int) -> Scene:
        """Scene `index` at its `attempt`th seed, and from some attempt on in other words."""
        turn = 0 if attempt < _SAME_WORDS else attempt - _SAME_WORDS + 1
        words = self.template.scene(index) if turn == 0 else self._other_words(index, turn)
        return Scene(index, words.prompt, words.negative_prompt, self._seed(index, attempt), words.slots)

    def _other_words(self, index: int, turn: int) -> Scene:
        number = derive_seed(self.settings.seed, "words", index, turn) % self.template.num_combinations
        return self.template.scene(number)

    def _seed(self, index: int, attempt: int) -> int:
        again = () if attempt == 0 else (attempt,)
        return derive_seed(self.settings.seed, "scene", index, *again)

    def _next(self, index: int, attempt: int, known: set[tuple[int, int]]) -> int:
        """The first attempt from `attempt` on that was neither rejected nor vetoed."""
        while (index, attempt) in known or self._seed(index, attempt) in self._excluded:
            attempt += 1
        return attempt

    def _attempt_of(self, row: Row) -> int:
        attempt = 0
        while self._seed(row["index"], attempt) != row["seed"]:
            attempt += 1
        return attempt

    def _span(self, number: int) -> range:
        start = number * self.settings.shard_size
        return range(start, min(start + self.settings.shard_size, self.settings.count))

    def _load(self, number: int) -> tuple[dict[int, Row], list[Row]]:
        """A shard's rows by index, and its rejects; empty if it is not there."""
        if not self.store.exists(shard_name(number)):
            return {}, []
        rows = {row["index"]: row for row in read_rows(self.store, shard_name(number))}
        rejected = shard_name(number, "rejects")
        return rows, read_rows(self.store, rejected) if self.store.exists(rejected) else []

    def _write(self, number: int, rows: Mapping[int, Row], rejects: list[Row]) -> None:
        """The rejects first: a shard that is there has all that belongs to it."""
        ordered = [rows[index] for index in self._span(number)]
        rejects.sort(key=lambda row: (row["index"], row["attempt"]))
        if rejects:
            write_rejects(self.store, shard_name(number, "rejects"), rejects, self.identity)
        write_page(self.store, number, ordered, rejects)
        write_shard(self.store, shard_name(number), ordered, self._columns, self.identity)

    def _row(self, scene: Scene, image: Image.Image, scores: Mapping[str, float | str]) -> Row:
        row = {
            "image": encoded(image, f"{scene.index:06d}.png"),
            "prompt": scene.prompt,
            "seed": scene.seed,
            "index": scene.index,
            "width": image.width,
            "height": image.height,
            **scores,
        }
        return row | {f"slot_{name}": value for name, value in scene.slots.items()}

    def _reject(self, scene: Scene, attempt: int, image: Image.Image | None, reason: str) -> Row:
        name = f"{scene.index:06d}-{attempt}.jpg"
        return {
            "image": None if image is None else thumbnail(image, name),  # a black image is never stored
            "index": scene.index,
            "attempt": attempt,
            "prompt": scene.prompt,
            "seed": scene.seed,
            "reason": reason,
        }


def excluded_seeds(store: Store) -> frozenset[int]:
    """The seeds that a person vetoed: the first word of each line of exclude*.txt.

    Raises:
        DatasetError: for a line that does not begin with a seed.
    """
    seeds = []
    for name in store.names("exclude*.txt"):
        with reading(f"{store}/{name}", DatasetError, "the gallery writes such files, a seed a line"):
            for number, line in enumerate(store.read(name).decode("utf-8").splitlines(), start=1):
                word = line.partition("#")[0].strip()
                if not word:
                    continue
                if not re.fullmatch(r"[0-9]{1,20}", word):
                    raise ValueError(f"line {number}: {word[:40]!r} is not a seed")
                seeds.append(int(word))
    return frozenset(seeds)
