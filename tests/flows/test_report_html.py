"""Pieces of a page: each stands by itself."""

import base64
import io
import re
import xml.etree.ElementTree as ET

import numpy as np
from PIL import Image

from flows.reports.html import curves, picture, wipe


def embedded(page: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/(png|jpeg);base64,([^"]+)"', page)
    pictures = [Image.open(io.BytesIO(base64.b64decode(encoded))) for _, encoded in found]
    assert [each.format for each in pictures] == [kind.upper() for kind, _ in found]
    return pictures


def test_a_image_is_in_the_page_and_its_words_are_escaped() -> None:
    encoded = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(encoded, "PNG")
    page = picture(encoded.getvalue(), "a <b> & c")
    (there,) = embedded(page)
    assert there.size == (3, 2) and there.convert("RGB").getpixel((0, 0)) == (255, 0, 0)
    assert page.count("a &lt;b&gt; &amp; c") == 2 and "<b>" not in page


def test_a_wipe_has_both_images_and_one_slider() -> None:
    before, after = Image.new("RGB", (16, 16), "black"), Image.new("RGB", (16, 16), "white")
    page = wipe(before, after, "lighter")
    assert [np.asarray(each).mean() for each in embedded(page)] == [0, 255]
    assert page.count('type="range"') == 1


def test_a_curve_goes_from_corner_to_corner() -> None:
    rows = [{"step": step, "up": 2.0 * step, "flat": 1.0} for step in range(1, 1001)]
    charts = [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", curves(rows, {"up": "up", "flat": "flat"}))]
    up, flat = (re.findall(r"[\d.]+ [\d.]+", chart.findall("path")[1].attrib["d"]) for chart in charts)
    assert (up[0], up[-1]) == ("44.0 94.0", "296.0 6.0")
    assert len(up) < 400, "a long training has no longer page"
    assert len({point.split()[1] for point in flat}) == 1
    assert [label.text for label in charts[0].findall("text")] == ["2e+03", "2", "1", "step 1000"]
