"""The biases of matched and mismatched pairs."""

from distill.studies.guidance_bias import OMEGAS, GuidanceBias
from synth.teacher.teacher import Teacher


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
