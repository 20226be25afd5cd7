"""Do PIE-Bench's metrics rank methods as the truth does? Drawn scenes in its format, whose true answers are known.

    python benchmarks/pie_bench_scenes.py FOLDER --num 40 --write-only
    distillery evaluate pie-bench --data FOLDER --method dds --method sds --out OUT
    python benchmarks/pie_bench_scenes.py FOLDER --num 40 --out OUT --model runs/demo/model.onnx

The folder is what `distillery evaluate pie-bench` reads, with the true answers in `truth/` beside. Without
--write-only the script runs methods of `distillery evaluate edits` on it, each at its own best setting, and a model
file if there is one; then it says for each metric and each pair of methods which one the metric prefers, and
whether the truth agrees. A preference counts where its 95 % interval, over the same images, excludes zero.
"""

import argparse
import difflib
import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from processes import one_line

from distill.evaluation.counterfactuals import edited_mask, measure_edits
from distill.evaluation.examples import drawn_examples
from distill.pie_bench.cases import CATEGORIES, IMAGES, MAPPING, SIDE, PieCase, encode_mask, read_cases
from distill.pie_bench.metrics import JudgeNames
from distill.studies.methods import METHODS, OURS
from distill.studies.rows import mean, paired_difference
from flows.evaluation.contenders import STUDENT, Contender, of_method, of_model
from flows.evaluation.pie_bench import edited_images, run_pie_bench, tables
from flows.shared_teacher import open_teacher
from synth.errors import FileError
from synth.files import whole_folder, write_text
from synth.images.encoding import open_image
from synth.settings import TeacherSettings
from synth.state import read_json
from synth.world.readers import FactorReader
from synth.world.scenes import render

EDITS: tuple[tuple[dict[str, str], str], ...] = (
    ({"color": "red", "material": "leather"}, "change material"),
    ({"color": "purple", "material": "velvet"}, "change material"),
    ({"color": "blue"}, "change color"),
    ({"flower": "tulips"}, "change object"),
    ({"weather": "sunset"}, "change background"),
    ({"character": "sculpture"}, "change content"),
)
"""What an edit sets, and the benchmark's category for it."""
NAMES = ("do nothing", "SDEdit 0.6", "SDS", "DDS as published", OURS)
PROXIES = {"psnr": 1, "mse": -1, "ssim": 1, "psnr_kept": 1, "mse_kept": -1, "ssim_kept": 1}
"""Metric -> 1 if more is better, -1 if less is."""
TRUTHS = ("psnr_all", "psnr_inside", "right")
MAX_PSNR = 100.0  # dB: equal images have an infinite one, which no interval can hold


class SmallReader:
    """The factor readers on images of another size than theirs."""

    def __init__(self) -> None:
        self._reader = FactorReader.load()

    def read(self, images: NDArray[np.uint8]) -> dict[str, list[str]]:
        """As `FactorReader.read`."""
        small = [Image.fromarray(image).resize((128, 128), Image.Resampling.LANCZOS) for image in images]
        return self._reader.read(np.stack([np.asarray(image) for image in small]))


def write_scenes(folder: Path, num: int) -> None:
    """Write `num` edits of unseen scenes in the benchmark's format, and `truth/` with their answers."""
    if folder.exists():
        raise FileError(f"{folder} is there already: choose another folder, or delete it")
    entries: dict[str, Any] = {}
    with whole_folder(folder) as part:
        (part / "truth").mkdir()
        for place, (factors, category) in enumerate(EDITS):
            kind = CATEGORIES.index(category)
            (part / IMAGES / f"{kind}_drawn").mkdir(parents=True, exist_ok=True)
            for number, example in enumerate(drawn_examples(factors, len(range(place, num, len(EDITS))), "test")):
                assert example.scene is not None, "drawn examples have scenes"
                before, after = (render(scene, SIDE) for scene in (example.scene, example.scene.replace(**factors)))
                key = f"{place}{number:011d}"
                Image.fromarray(before.image).save(part / IMAGES / f"{kind}_drawn" / f"{key}.png")
                Image.fromarray(after.image).save(part / "truth" / f"{key}.png")
                source, target = bracketed(example.source_prompt, example.prompt, " ".join(factors.values()))
                entries[key] = {
                    "image_path": f"{kind}_drawn/{key}.png",
                    "original_prompt": source,
                    "editing_prompt": target,
                    "editing_instruction": f"make it {' '.join(factors.values())}",
                    "editing_type_id": str(kind),
                    "blended_word": "",
                    "mask": encode_mask(edited_mask(before, after, factors)),
                    "factors": factors,
                }
        (part / MAPPING).write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def bracketed(source: str, target: str, edit: str) -> tuple[str, str]:
    """Put the words that differ, or all of the edit's own, in brackets."""
    words = source.split(), target.split()
    marked: tuple[list[str], list[str]] = ([], [])
    for kind, *spans in difflib.SequenceMatcher(None, *words, autojunk=False).get_opcodes():
        for side, (start, end) in enumerate((spans[:2], spans[2:])):
            text = " ".join(words[side][start:end])
            marked[side].extend([f"[{text}]"] if kind != "equal" and text else [text] if text else [])
    if edit in target:
        return " ".join(marked[0]), target.replace(edit, f"[{edit}]", 1)
    return " ".join(marked[0]), " ".join(marked[1])


def true_rows(
    folder: Path, cases: Sequence[PieCase], methods: Sequence[Contender], out: Path
) -> list[dict[str, Any]]:
    """Measure the edited images against their true answers."""
    reader = SmallReader()
    factors = read_json(folder / MAPPING, dict[str, dict[str, Any]], FileError, "write the folder again")
    rows = []
    for method, case, image in edited_images(cases, methods, out):
        example = case.example()
        truth = np.asarray(open_image(folder / "truth" / f"{case.key}.png"))
        assert example.mask is not None, "cases have masks"
        metrics = next(
            measure_edits(
                image[None], example.image[None], truth[None], [example.mask], factors[case.key]["factors"], reader
            )
        )
        rows.append({"method": method.name, "key": case.key, **metrics})
    return rows


def preference(rows: Sequence[dict[str, Any]], one: str, other: str, metric: str, sign: int) -> int:
    """Which of two methods a metric prefers: 1, -1, or 0 where the interval holds zero."""
    marked = [
        {**row, "split": "", "edit": "", "scene": row["key"], metric: min(row[metric], MAX_PSNR)}
        for row in rows
        if row["method"] in (one, other) and row.get(metric) is not None
    ]
    shared = {row["key"] for row in marked if row["method"] == one} & {
        row["key"] for row in marked if row["method"] == other
    }
    paired = [row for row in marked if row["key"] in shared]
    if not paired:
        return 0
    _, low, high = paired_difference(paired, one, other, "", metric)
    return sign * (int(low > 0) - int(high < 0))


def ranking(measured: Sequence[dict[str, Any]], true: Sequence[dict[str, Any]], without: str = "") -> str:
    """Say for each metric of the benchmark how often it prefers what the truth prefers, over all pairs of methods."""
    names = [name for name in dict.fromkeys(row["method"] for row in true) if name != without]
    header = ["metric", *(f"{truth}: agrees, against, no verdict" for truth in TRUTHS)]
    lines = [f"| {' | '.join(header)} |", f"|---|{'---:|' * len(TRUTHS)}"]
    for metric, sign in PROXIES.items():
        cells = []
        for truth in TRUTHS:
            verdicts = [
                preference(measured, *pair, metric, sign) * preference(true, *pair, truth, 1)
                for pair in combinations(names, 2)
            ]
            cells.append(", ".join(str(verdicts.count(verdict)) for verdict in (1, -1, 0)))
        lines.append(f"| {' | '.join([metric, *cells])} |")
    return "\n".join(lines)


def truth_table(rows: Sequence[dict[str, Any]]) -> str:
    """The means of the true metrics, a row a method."""
    metrics = ("psnr_all", "psnr_inside", "psnr_outside", "ssim_all", "right")
    lines = [f"| method | {' | '.join(metrics)} |", f"|---|{'---:|' * len(metrics)}"]
    for name in dict.fromkeys(row["method"] for row in rows):
        cells = [f"{mean(rows, metric, method=name):.3f}" for metric in metrics]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)


@one_line
def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num", type=int, default=40)
    parser.add_argument("--write-only", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--method", action="append", choices=METHODS, help=f"default: {', '.join(NAMES)}")
    parser.add_argument("--model", type=Path, help="a model file of the recipe sofas, or the demo's")
    given = parser.parse_args()
    if not given.folder.exists():
        write_scenes(given.folder, given.num)
    if given.write_only:
        return
    if given.out is None:
        parser.error("--out says where the results go")
    teacher = open_teacher(TeacherSettings())
    methods = [of_method(name, METHODS[name], teacher) for name in given.method or NAMES]
    methods += [of_model(STUDENT, given.model)] if given.model else []
    cases = read_cases(given.folder)
    measured = run_pie_bench(cases, methods, JudgeNames(), given.out)
    true = true_rows(given.folder, cases, methods, given.out)
    parts = [
        tables(measured),
        "Against the truth",
        truth_table(true),
        "As the truth ranks them?",
        ranking(measured, true),
        "Without doing nothing",
        ranking(measured, true, NAMES[0]),
    ]
    text = "\n\n".join([*parts, *JudgeNames().missing()])
    write_text(given.out / "truth.md", f"{text}\n")
    print(text)


if __name__ == "__main__":
    main()
