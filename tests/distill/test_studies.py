"""The studies: what must hold whatever the teacher knows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from distill.examples import drawn_examples
from distill.settings import EditSettings, EvaluationSettings
from distill.studies.ablations import ARMS, SCENES, Ablations
from distill.studies.benchmark import Sweep
from distill.studies.guidance_bias import OMEGAS, GuidanceBias
from distill.studies.leakage import Leakage
from distill.studies.methods import DoNothing, Optimized
from distill.studies.optimizer import Optimizer
from distill.studies.real_images import RealImages
from distill.studies.regularized_sds import WEIGHTS, RegularizedSDS
from distill.studies.student import STUDENT, Distilled
from distill.studies.study import Row, Study, Unit, heat
from flows.cli import main
from flows.evaluation.studies import run_study
from synth.errors import RecipeError, RunError
from synth.teacher.teacher import Teacher

SETTINGS = EditSettings()
TINY_SCENES = SCENES.model_copy(update={"image_size": 64, "num_inference_steps": 1})


@dataclass(frozen=True)
class Interrupted(Study):
    """Counts what it did, and can be made to stop."""

    stop: Path
    name = "interrupted"
    question = "?"

    def units(self) -> list[Unit]:
        return [{"place": place} for place in range(3)]

    def measure(self, teacher: Teacher, unit: Unit) -> list[Row]:
        if unit["place"] == 1 and not self.stop.exists():
            self.stop.touch()
            raise KeyboardInterrupt
        with (self.stop.parent / "done").open("a") as log:
            log.write(str(unit["place"]))
        return [{"place": unit["place"], "value": None if unit["place"] == 0 else 1.5}]

    def figure(self, rows: Sequence[Row]) -> Image.Image:
        return Image.new("RGB", (len(rows), 1))

    def finding(self, rows: Sequence[Row]) -> str:
        return str([row["value"] for row in rows])


def test_a_stopped_study_goes_on(tiny_teacher: Teacher, tmp_path: Path) -> None:
    study, out = Interrupted(tmp_path / "stop"), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run_study(study, tiny_teacher, out)
    assert not (out / "rows.parquet").exists()
    assert run_study(study, tiny_teacher, out) == "[None, 1.5, 1.5]"
    assert (tmp_path / "done").read_text() == "012", "no piece was done twice"
    assert pq.read_table(out / "rows.parquet")["place"].to_pylist() == [0, 1, 2]
    assert (out / "finding.txt").read_text() == "?\n[None, 1.5, 1.5]\n"
    with pytest.raises(RunError, match="another study"):
        run_study(Interrupted(tmp_path / "other"), tiny_teacher, out)


def test_examples_differ_in_the_edited_words_and_inside_the_mask_alone() -> None:
    for factors in ({"color": "red", "material": "leather"}, {"flower": "roses"}, {"character": "zombie"}):
        for example in drawn_examples(factors, 3, "development"):
            assert example.truth is not None and example.mask is not None
            changed = (example.image != example.truth).any(axis=2)
            assert changed.any() and not (changed & ~example.mask).any()
            before, after = example.source_prompt.split(), example.prompt.split()
            assert all(value.split()[0] in after for value in factors.values())
            assert sum(word not in before for word in after) <= 3, "only the edited words differ"
    sunny = drawn_examples({"weather": "sunset"}, 2, "development", weather="clear")
    assert all(example.scene is not None and example.scene.factors["weather"] == "clear" for example in sunny)


def test_guidance_bias(tiny_teacher: Teacher) -> None:
    study = GuidanceBias(num_scenes=2)
    rows = study.measure(tiny_teacher, study.units()[4])
    assert len(rows) == len(OMEGAS) * 3 * 2
    assert all(-1.0001 <= row["cosine"] <= 1.0001 for row in rows)
    text_only = {(row["scene"], row["cosine"]) for row in rows if row["pair"] == "text only"}
    assert len(text_only) == 2, "guidance scales that direction and does not turn it"
    matched = {row["omega"]: row["cosine"] for row in rows if (row["pair"], row["scene"]) == ("matched", 0)}
    assert len(set(matched.values())) == len(OMEGAS)
    assert rows == study.measure(tiny_teacher, study.units()[4])


def test_optimizer_maps(tiny_teacher: Teacher) -> None:
    study = Optimizer(SETTINGS, num_scenes=1, at=(1, 3))
    rows = [row for unit in study.units() for row in study.measure(tiny_teacher, unit)]
    for method in ("DDS, SGD", "DDS, Adam", "SDS, SGD"):
        first, last = (row for row in rows if row["method"] == method)
        assert first["update"] == pytest.approx(first["moved"], abs=1e-5), "one iteration is all that has moved"
        assert np.linalg.norm(last["moved"]) > np.linalg.norm(last["update"])
        assert 0 < last["moved_inside"] < 1
    assert study.figure(rows).width > 2 * 128
    assert "DDS, Adam" in study.finding(rows)


def test_heat_runs_from_its_colour_to_red() -> None:
    colors = heat([0.0, 1.0, 2.0, 4.0], (2, 2), (40, 160, 70), 2.0)
    assert colors.shape == (2, 2, 3)
    assert colors[0, 0].tolist() == [40, 160, 70]
    assert colors[1, 0].tolist() == colors[1, 1].tolist() == [220, 30, 30]


def test_findings_follow_the_rows() -> None:
    def row(method: str, psnr_all: float) -> Row:
        others = {"psnr_inside": 12.0, "psnr_outside_to_input": 30.0, "sharpness_inside": 0.5, "right": 1.0}
        return {"method": method, "psnr_all": psnr_all, **others}

    rows = [row(f"SDS, weight {weight:g}", 20 - abs(weight - 0.3)) for weight in WEIGHTS] + [row("DDS", 25.0)]
    assert "The best weight by PSNR over all, 0.3:" in RegularizedSDS(SETTINGS).finding(rows)

    def read(factor: str, after: str, asked: bool) -> Row:
        return {"edit": "red", "factor": factor, "asked": asked, "before": "white", "after": after}

    leaks = [read("wall", "white", False), read("wall", "pink", False), read("color", "red", True)]
    assert Leakage(SETTINGS).finding(leaks).startswith("50% of what was not asked about")
    assert Leakage(SETTINGS).figure(leaks).width > 600


def test_images_of_ones_own(tiny_teacher: Teacher, tmp_path: Path) -> None:
    picture = tmp_path / "room.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)).save(picture)
    study = RealImages(SETTINGS, (picture,), "a red sofa", "a sofa", at=(1, 2))
    run_study(study, tiny_teacher, tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "rows.parquet").to_pylist()
    assert [(row["source"], row["iterations"]) for row in rows] == [
        *(("a sofa", at) for at in (0, 1, 2)),
        *(("", at) for at in (0, 1, 2)),
    ]
    assert rows[0]["moved"] == 0 < rows[2]["moved"]
    with Image.open(tmp_path / "out" / "figure.png") as figure:
        assert figure.height > 2 * 128


def test_real_images_ask_for_images(tmp_path: Path) -> None:
    ran = CliRunner().invoke(main, ["study", "real-images", "--out", str(tmp_path / "out")])
    assert ran.exit_code == 2
    assert "name them, and give --prompt" in ran.output
    assert not (tmp_path / "out").exists()


def test_the_translator_study(tiny_teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of three arms, whole and again: what differs between them, and that nothing is done twice."""
    few = {name: ARMS[name] for name in ("as it is", "SDS", "one edit alone", "one fixed pair")}
    monkeypatch.setattr("distill.studies.ablations.ARMS", few)
    monkeypatch.setattr("distill.studies.ablations.SCENES", TINY_SCENES)
    study, out = Ablations(tmp_path / "out", num_steps=2, num_images=4, num_scenes=2), tmp_path / "out"
    finding = run_study(study, tiny_teacher, out)
    rows = pq.read_table(out / "rows.parquet").to_pylist()
    assert {row["arm"] for row in rows} == set(few)
    assert {row["step"] for row in rows} == {1, 2}
    last = {row["arm"]: row for row in rows if row["step"] == 2 and row["edit"] == "red-leather"}
    assert last["as it is"]["calls"] == 2 * 4 * (2 + 2 * 4)  # steps, images, passes
    assert last["SDS"]["calls"] == 2 * 4 * 2 * 4
    assert last["one edit alone"]["calls"] == 2 * 4 * (2 + 2)
    assert {row["edit"] for row in rows if row["arm"] == "one edit alone"} == {"red-leather"}
    assert all(figure in finding for figure in ("as it is: ", "SDS: ", "of the variety"))
    assert len({row["png"] for row in last.values()}) == len(few), "each arm learned something else"
    with Image.open(out / "figure.png") as figure:
        assert figure.height > 4 * 128
    before = next((out / "pieces").glob("000-*")).stat().st_mtime_ns
    assert run_study(study, tiny_teacher, out) == finding
    assert next((out / "pieces").glob("000-*")).stat().st_mtime_ns == before


def test_a_student_is_held_against_zero_shot_edits_of_the_same_images(tiny_teacher: Teacher, tmp_path: Path) -> None:
    edits = {"blue": {"color": "blue"}, "red-leather": {"color": "red", "material": "leather"}}
    examples = {edit: drawn_examples(factors, 2, "test") for edit, factors in edits.items()}

    def oracle(images: np.ndarray, edit: str) -> np.ndarray:
        """Knows the answers."""
        for image, example in zip(images, examples[edit], strict=False):
            assert (image == example.image).all()
        return np.stack([example.truth for example in examples[edit][: len(images)] if example.truth is not None])

    methods = {"do nothing": DoNothing(), "DDS": Optimized(EditSettings(iterations=2))}
    study = Distilled(oracle, "a file", edits, EvaluationSettings(num_scenes=2), methods)
    finding = run_study(study, tiny_teacher, tmp_path)
    rows = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    assert [(row["edit"], row["method"], row["scene"]) for row in rows] == [
        (edit, method, scene) for edit in edits for method in (STUDENT, *methods) for scene in (0, 1)
    ]
    assert all(row["psnr_all"] == 60 and row["calls"] == 1 for row in rows if row["method"] == STUDENT)
    assert all(row["psnr_all"] < 40 and row["calls"] == 8 for row in rows if row["method"] == "DDS")
    assert all(f"{STUDENT} less {name}, with" in finding for name in methods)
    with pytest.raises(RunError, match="another study"):  # the figures of one file do not pass for another's
        run_study(replace(study, model="another"), tiny_teacher, tmp_path)


def test_scenes_that_are_edited_already_are_none_to_draw() -> None:
    with pytest.raises(RecipeError, match="already are what the edit"):
        drawn_examples({"weather": "sunset"}, 1, "test", weather="sunset")


def test_pieces_of_other_settings_are_not_taken_for_these(
    tiny_teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = {"DDS": (Optimized(EditSettings(iterations=1, learning_rate=1.0, guidance_scale=3.0)),)}
    monkeypatch.setattr("distill.studies.benchmark.GRIDS", grid)
    run_study(Sweep(1), tiny_teacher, tmp_path)
    grid["DDS"] = (Optimized(EditSettings(iterations=1, learning_rate=2.0, guidance_scale=3.0)),)
    assert "rate 2" in run_study(Sweep(1), tiny_teacher, tmp_path)
    assert len(list((tmp_path / "pieces").glob("*.parquet"))) == 2
