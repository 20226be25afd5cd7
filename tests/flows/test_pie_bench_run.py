"""`distillery evaluate pie-bench`: from the benchmark's folder to the table, with a student and zero-shot edits."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_runs import command
from tiny_judges import save_tiny_clip, save_tiny_dino
from tiny_model import OFFSETS, properties, write_model
from tiny_pie import write_pie_bench

from distill.pie_bench.cases import read_cases
from distill.pie_bench.metrics import JudgeNames
from distill.settings import EditSettings
from distill.studies.methods import Optimized
from distill.zero_shot import edit
from flows.evaluation.contenders import METHODS, ZERO_SHOT, Contender, of_doing_nothing, of_method, of_model
from flows.evaluation.pie_bench import edited_images, run_pie_bench
from synth.errors import RunError, TeacherError
from synth.teacher.teacher import Teacher


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Its edits are "red leather" and "blue fabric": it shifts the left half."""
    return write_model(tmp_path / "model.onnx", properties(name="small"))


def test_a_student_takes_the_images_that_ask_for_its_edits(tmp_path: Path, model: Path) -> None:
    data = write_pie_bench(tmp_path / "pie")
    methods = ("--method", "student", "--method", "do-nothing", "--model", model)
    result = command("evaluate", "pie-bench", "--data", data, *methods, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    rows = pq.read_table(tmp_path / "out" / "rows.parquet").to_pylist()
    assert [(row["method"], row["key"]) for row in rows] == [
        ("do-nothing", "000000000000"),
        ("do-nothing", "611000000000"),
        ("do-nothing", "612000000000"),
        ("student", "611000000000"),
        ("student", "612000000000"),
    ]
    student = of_model("student", model)
    edited = edited_images(read_cases(data), [student], tmp_path / "out")
    for (_, case, image), edit_number in zip(edited, (0, 1), strict=True):
        shift = np.round(OFFSETS[edit_number] * 127.5)
        want = case.example().image[256, 10] + shift
        np.testing.assert_allclose(image[256, 10], want, atol=1)
    assert re.search(r"^\| student \| 2 \|", result.output, re.MULTILINE)
    assert "6. change color" in result.output and "1. change object" not in result.output
    for line in ("structure is not measured", "LPIPS is not measured", "CLIP is not measured"):
        assert line in result.output
    assert (tmp_path / "out" / "table.md").read_text().splitlines()[2].startswith("| method | images |")


def test_zero_shot_edits_are_those_of_the_method(tmp_path: Path, tiny_teacher: Teacher) -> None:
    cases = read_cases(write_pie_bench(tmp_path / "pie"), [6])
    settings = EditSettings(iterations=2, learning_rate=1.0, guidance_scale=3.0)
    methods = [of_method("dds", Optimized(settings), tiny_teacher)]
    rows = run_pie_bench(cases, methods, JudgeNames(), tmp_path / "out")
    assert [row["key"] for row in rows] == ["611000000000", "612000000000"]
    (_, case, image), _ = edited_images(cases, methods, tmp_path / "out")
    alone = edit(tiny_teacher, case.example().pil_image, case.prompt, case.source_prompt, settings)
    np.testing.assert_allclose(image.astype(int), np.asarray(alone.images[0]).astype(int), atol=1)
    assert np.abs(image.astype(int) - case.example().image).max() > 0


class Counting:
    """An edit that counts its calls, and may end in an error."""

    def __init__(self, fails_at: int = 99) -> None:
        self.seen: list[str] = []
        self._fails_at = fails_at

    def contender(self) -> Contender:
        return Contender("counting", "0", lambda case: True, self)

    def __call__(self, cases: Any) -> list[np.ndarray]:
        if len(self.seen) >= self._fails_at:
            raise RunError("the power went")
        self.seen += [case.key for case in cases]
        return [case.example().image for case in cases]


def test_what_was_killed_resumes_and_new_judges_ask_no_new_edit(tmp_path: Path) -> None:
    data = write_pie_bench(tmp_path / "pie")
    cases, out = read_cases(data), tmp_path / "out"
    killed = Counting(fails_at=1)
    with pytest.raises(RunError, match="the power went"):
        run_pie_bench(cases, [killed.contender()], JudgeNames(), out)
    resumed = Counting()
    rows = run_pie_bench(cases, [resumed.contender()], JudgeNames(), out)
    assert (killed.seen, resumed.seen) == (["000000000000"], ["611000000000", "612000000000"])
    # Another method before it, one category alone, and judges: nothing is edited again.
    idle = Counting(fails_at=0)
    methods = [of_doing_nothing("do-nothing"), idle.contender()]
    names = JudgeNames(clip=str(save_tiny_clip(tmp_path / "clip")), dino=str(save_tiny_dino(tmp_path / "dino")))
    judged = run_pie_bench(read_cases(data, [6]), methods, names, out)
    assert [row["method"] for row in judged] == ["do-nothing"] * 2 + ["counting"] * 2
    assert all(row["structure"] == pytest.approx(0, abs=1e-9) and row["clip_whole"] is not None for row in judged)
    assert [row["mse"] for row in judged[2:]] == [row["mse"] for row in rows[1:]]
    # Another image under the same name is edited anew.
    cases[0].path.write_bytes(cases[1].path.read_bytes())
    again = Counting()
    run_pie_bench(read_cases(data), [again.contender()], JudgeNames(), out)
    assert again.seen == ["000000000000"]


def test_wrong_calls_end_in_one_line(tmp_path: Path, model: Path) -> None:
    data, out = write_pie_bench(tmp_path / "pie"), tmp_path / "out"
    for arguments, message in (
        (["--method", "student"], "--method student needs --model"),
        (["--model", model], "--model has no effect without it"),
        (["--method", "student", "--model", model, "--category", "0"], "student takes none of the 1 images"),
        (["--method", "do-nothing", "--clip", tmp_path / "none"], "cannot be opened as a CLIP model"),
        (["--method", "do-nothing", "--category", "3"], "names no image of category 3"),
        (["--method", "dreams"], "'dreams' is not one of"),
    ):
        result = command("evaluate", "pie-bench", "--data", data, *arguments, "--out", out)
        assert result.exit_code == 2 and message in result.output, result.output
        assert not (out / "rows.parquet").exists()


def test_a_prompt_too_long_is_refused_before_any_edit(tmp_path: Path, tiny_teacher: Teacher) -> None:
    long = {"612000000000": {"editing_prompt": "a sofa " * 80}}
    cases = read_cases(write_pie_bench(tmp_path / "pie", long))
    method = of_method("dds", Optimized(EditSettings(iterations=1)), tiny_teacher)
    with pytest.raises(TeacherError, match="tokens"):
        run_pie_bench(cases, [method], JudgeNames(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_methods_spend_equally_many_network_calls() -> None:
    calls = {name: Optimized(EditSettings(**ZERO_SHOT[name])).calls for name in METHODS[1:-1]}
    assert set(calls.values()) == {800}


@pytest.mark.slow
def test_drawn_scenes_come_in_the_benchmarks_format(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "pie_bench_scenes.py"
    program = [sys.executable, script, tmp_path / "drawn", "--num", "6", "--write-only"]
    subprocess.run(program, check=True, capture_output=True, cwd=script.parents[1])
    cases = read_cases(tmp_path / "drawn")
    assert [case.category for case in cases] == [1, 4, 6, 7, 7, 8]
    assert {"red", "leather"} in [case.edited_words for case in cases]
    for case in cases:
        example = case.example()
        truth = np.asarray(Image.open(tmp_path / "drawn" / "truth" / f"{case.key}.png"))
        assert example.mask is not None and 0 < example.mask.mean() < 1
        assert np.array_equal(truth[~example.mask], example.image[~example.mask])  # nothing else has changed
        assert (truth != example.image).any()
        assert "[" not in case.prompt and case.prompt != case.source_prompt
    again = subprocess.run([*program, "--write-only"], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr  # it is there: nothing is written over it
