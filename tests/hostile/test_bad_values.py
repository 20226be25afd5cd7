"""What could not be read back is refused where it enters, at once and in one line."""

import time
from pathlib import Path

import pytest

from flows.config.loading import load_recipe
from synth.errors import RecipeError


@pytest.mark.parametrize(
    "override",
    [
        "training.learning_rate=inf",
        "training.learning_rate=nan",
        "training.lambda_id_end=inf",
        "operations.timeout_hours=inf",
        "operations.tolerated_psnr=nan",
        "scenes.guidance_scale=inf",
        "scenes.count=1000000000000000",
        "scenes.count=1e15",
        "scenes.image_size=8000000",
        "scenes.seed=-1",
        "scenes.seed=1" + "0" * 40,
        "scenes.count=1" + "0" * 5000,
        "training.steps=10000000000000",
        "training.batch_size=99999999",
        "evaluation.num_scenes=1000000000",
        'scenes.template="a\\u0000 sofa"',
        'scenes.template="a\\u001b[2J sofa"',
        'scenes.template="a\\u007f sofa"',
        'validated_on="\\u009b"',
        'name="a\\u0007b"',
        "name=" + "x" * 200,
        f'scenes.negative_prompt="{"x" * 20_000}"',
        'edits.red-leather={color = "\\u0000"}',
        "edits." + "x" * 100 + '={color = "red"}',
        "scenes.slots=" + "[" * 5000 + "]" * 5000,
        "scenes.slots=" + "{a=" * 200 + "1" + "}" * 200,
        ".".join(["a"] * 50_000) + "=1",
        "scenes.slots.x={" + ".".join(["a"] * 50_000) + "=1}",
    ],
    ids=lambda override: override[:40],
)
def test_a_value_beyond_bounds_is_one_short_line(override: str) -> None:
    started = time.perf_counter()
    with pytest.raises(RecipeError) as raised:
        load_recipe("sofas", [override])
    assert len(str(raised.value)) < 600
    assert str(raised.value).isprintable()
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        b"\x00" * 100,
        b"a = " + b"[" * 100_000,
        b"a = " + b"[" * 200 + b"]" * 200,
        b".".join([b"a"] * 50_000) + b" = 1",
        b"[" + b".".join([b"a"] * 50_000) + b"]",
        b"a = {" + b".".join([b"a"] * 50_000) + b" = 1}",
        b"\n".join(b"training.k%d = 1" % number for number in range(50_000)),
        b"name = " + b"9" * 10_000,
        b"# " + b"x" * 2**21,
        b"name = 1979-05-27",
    ],
    ids=range(12),
)
def test_a_damaged_recipe_is_one_short_line_that_names_the_file(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(text)
    started = time.perf_counter()
    with pytest.raises(RecipeError, match=r"mine\.toml") as raised:
        load_recipe(file)
    assert len(str(raised.value)) < 2000
    assert time.perf_counter() - started < 3


def test_lines_and_tabs_in_a_text_may_stand() -> None:
    assert "\n" in load_recipe("sofas", ['scenes.negative_prompt="a\\n\\tb"']).to_paint().negative_prompt
