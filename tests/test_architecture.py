"""docs/architecture.md is as the code is now."""

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("draw_architecture", ROOT / "docs" / "draw_architecture.py")
assert spec is not None and spec.loader is not None
draw = importlib.util.module_from_spec(spec)
spec.loader.exec_module(draw)


def test_page_and_picture_are_fresh() -> None:
    """Mend it with `python docs/draw_architecture.py`."""
    files = draw.modules()
    assert draw.PICTURE.read_text() == draw.picture(files)
    assert draw.PAGE.read_text() == draw.page(draw.PAGE.read_text(), files)


def test_every_module_says_what_it_is() -> None:
    lines = {path: draw.summary(path) for path in draw.modules().values()}
    assert not [path for path, line in lines.items() if len(line) < 15], "a docstring says too little"


def test_the_files_that_the_page_names_are_there() -> None:
    """Of the prose; the tables are made from the code."""
    text = draw.PAGE.read_text().partition(draw.BEGIN)[0]
    for name in re.findall(r"`((?:flows|inference|distill|synth)/[\w/.]+)`", text):
        assert (ROOT / name).exists(), name


def test_arrows_that_follow_from_others_are_left_out() -> None:
    assert draw.reduced({("a", "b"), ("b", "c"), ("a", "c")}) == {("a", "b"), ("b", "c")}
