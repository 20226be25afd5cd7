"""The pieces of a page, each by itself."""

import base64
import io
import re
import xml.etree.ElementTree as ET

import numpy as np
from PIL import Image

from flows.reports.charts import training_charts
from flows.reports.html import TEMPLATES, captioned, wipe


def rendered(piece: str, value: object) -> str:
    source = f'{{% import "pieces.html" as pieces %}}{{{{ pieces.{piece}(value) }}}}'
    return TEMPLATES.from_string(source).render(value=value)


def embedded(page: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/(png|jpeg);base64,([^"]+)"', page)
    images = [Image.open(io.BytesIO(base64.b64decode(encoded))) for _, encoded in found]
    assert [image.format for image in images] == [kind.upper() for kind, _ in found]
    return images


def test_an_image_is_in_the_page_and_its_caption_is_escaped() -> None:
    encoded = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(encoded, "PNG")
    page = rendered("figure", captioned(encoded.getvalue(), "a <b> & c"))
    (there,) = embedded(page)
    assert there.size == (3, 2) and there.convert("RGB").getpixel((0, 0)) == (255, 0, 0)
    assert page.count("a &lt;b&gt; &amp; c") == 2 and "<b>" not in page


def test_a_wipe_has_both_images_and_one_slider() -> None:
    before, after = Image.new("RGB", (16, 16), "black"), Image.new("RGB", (16, 16), "white")
    page = rendered("wipe", wipe(before, after, "lighter"))
    assert [np.asarray(image).mean() for image in embedded(page)] == [0, 255]
    assert page.count('type="range"') == 1


def test_a_curve_goes_from_corner_to_corner() -> None:
    rows = [{"step": step, "up": 2.0 * step, "flat": 1.0} for step in range(1, 1001)]
    pages = [rendered("chart", chart) for chart in training_charts(rows, {"up": "up", "flat": "flat"})]
    charts = [ET.fromstring(svg) for page in pages for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    up, flat = (re.findall(r"[\d.]+ [\d.]+", chart.findall("path")[1].attrib["d"]) for chart in charts)
    assert (up[0], up[-1]) == ("44.0 94.0", "296.0 6.0")
    assert len(up) < 400, "a long training has no longer page"
    assert len({point.split()[1] for point in flat}) == 1
    assert [label.text for label in charts[0].findall("text")] == ["2e+03", "2", "1", "step 1000"]
