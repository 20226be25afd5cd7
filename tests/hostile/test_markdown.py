"""Text from outside in cards, tables and Prefect's pages: it shows as it is, and makes no tag, link or column."""

import ast
import io
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from PIL import Image

import flows.orchestration.artifacts as artifacts
from flows.config.schema import Recipe
from flows.reports.html import TEMPLATES, captioned
from flows.reports.model_card import write_model_card
from flows.reports.tables import _COLUMNS, markdown_table, text_table
from flows.run.folder import RunFolder
from synth.dataset.card import write_card
from synth.dataset.gallery import write_index, write_page
from synth.dataset.importing import import_photos
from synth.dataset.shards import encoded, write_rejects, write_shard
from synth.dataset.store import Store
from synth.markdown import Markdown, code, escape, python_string, table
from synth.settings import PhotoSettings, SceneSettings
from synth.templates import hub_licence

HOSTILE = [
    "a | b || c \\| d \\\\| e",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "</td></tr></table><!-- &lt;b&gt; &amp;",
    "[click](javascript:alert(1)) ![x](http://evil.example/x.png)",
    "[ref]: javascript:alert(1)",
    "<javascript:alert(1)> <http://evil.example> https://evil.example www.evil.example a@evil.example",
    "`code` ``` ~~~ ~~gone~~ *em* **strong** _em_ __strong__ $math$",
    "line\n\n# heading\n\n- item\n\n---\n\n| a |\n|---|\n| b |\n\n```\nfence",
    "line\r\n> quote\u2028<b>\x85x\x0by",
    "# heading",
    "> quote",
    "- item",
    "1. item",
    "---",
    "===",
    "{{ 7 * 7 }} {% raw %} {# #}",
    "'\"; import os #\\",
    "\\",
    "a\\",
    "x: [y, !!python/object:os.system {z}]",
    "\u202etxt.exe\u200f",
]
"""What Markdown, HTML, Jinja, Python or YAML may read as its own."""

ALL = " ".join(HOSTILE)


def shown(markdown: str) -> list[Token]:
    renderer = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    renderer.validateLink = lambda url: True  # so that javascript: makes a link, as in a renderer that checks nothing
    return renderer.parse(markdown)


def kinds(markdown: str) -> list[str]:
    """The types of all tokens, within lines too."""
    tokens = shown(markdown)
    return [each.type for token in tokens for each in [token, *(token.children or [])]]


def text_of(markdown: str) -> str:
    tokens = shown(markdown)
    return "".join(each.content for token in tokens for each in token.children or [])


def expected(text: str) -> str:
    return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]", " ", text).split())


def check(markdown: str, links: int = 0, images: int = 0, columns: set[int] | None = None) -> None:
    """No raw HTML, no link or image but the template's own, and tables as wide as they should be."""
    found = kinds(markdown)
    assert not {"html_inline", "html_block", "s_open"} & set(found)
    assert found.count("link_open") == links and found.count("image") == images
    if columns is not None:
        assert set(columns_of(found)) == columns


def columns_of(found: list[str]) -> Iterator[int]:
    width = 0
    for kind in found:
        width += kind in ("td_open", "th_open")
        if kind == "tr_close":
            yield width
            width = 0


@pytest.mark.parametrize("text", [*HOSTILE, ALL])
def test_a_text_shows_as_it_is(text: str) -> None:
    for before in ("", "some words: "):
        line = f"{before}{escape(text)}" if before else escape(text)
        assert set(kinds(line)) <= {"paragraph_open", "paragraph_close", "inline", "text", "text_special"}
        assert text_of(line) == f"{before}{expected(text)}"
    assert escape(escape(text)) == escape(text), "escaped once"
    assert text_of(f"x {code(text)}") == f"x {expected(text)}"


@given(st.text(alphabet=st.sampled_from("ab \\`*_[]()<>&|~$#-+=.:/@!1\n\t\u2028\"'{}%")))
def test_no_text_makes_markup(text: str) -> None:
    allowed = {"paragraph_open", "paragraph_close", "inline", "text", "text_special"}
    assert set(kinds(f"{escape(text)}\n")) <= allowed
    assert text_of(escape(text)) == expected(text)
    found = kinds(table(("a", code("b")), [(text, code(text)), (text, 1)]))
    assert set(columns_of(found)) == {2} and not {"link_open", "image", "html_inline", "em_open"} & set(found)
    assert ast.literal_eval(python_string(text)) == text


def test_a_table_keeps_its_columns_and_its_texts() -> None:
    page = table(("text", "code", "number"), [(text, code(text), 1.5) for text in HOSTILE], 2)
    check(page, columns={3})
    cells = [token.content for token in shown(page) if token.type == "inline"]
    assert len(cells) == 3 * (len(HOSTILE) + 1)
    assert page.splitlines()[1] == "|---|---|---:|"


def test_names_are_not_littered_with_backslashes() -> None:
    plain = "runwayml/stable-diffusion-v1-5, psnr_all 0.25 (a {color} sofa), it's 12%"
    assert escape(plain) == plain and code("psnr_all") == "`psnr_all`"


@pytest.mark.parametrize("text", [*HOSTILE, "\ud800", "é"])
def test_an_example_quotes_any_name(text: str) -> None:
    literal = python_string(text)
    assert ast.literal_eval(literal) == text
    assert "\n" not in literal and literal.encode()


@pytest.mark.parametrize("licence", [*HOSTILE, "", "-", "no\n---\n"])
def test_front_matter_names_known_licences_alone(licence: str) -> None:
    assert hub_licence(licence) == "other"
    assert hub_licence("apache-2.0") == "apache-2.0"


def test_the_card_of_a_dataset(tmp_path: Path) -> None:
    store = Store(tmp_path)
    image = encoded(Image.new("RGB", (8, 8)), "0.png")
    row = {"image": image, "prompt": ALL, "seed": 1, "index": 0, "slot_color": ALL}
    columns: dict[str, type] = {"image": bytes, "prompt": str, "seed": int, "index": int, "slot_color": str}
    write_shard(store, "data/train-00000.parquet", [row], columns, {})
    gone = [
        {"image": None, "index": 0, "attempt": number, "prompt": ALL, "seed": 1, "reason": text}
        for number, text in enumerate(HOSTILE)
    ]
    write_rejects(store, "rejects/train-00000.parquet", gone, {})
    settings = SceneSettings(
        template=" ".join(text for text in map(expected, HOSTILE)) + " {color}",
        slots={"color": ["red"]},
        count=1,
        negative_prompt=expected(ALL),
        image_size=8,
        num_inference_steps=1,
        guidance_scale=1.0,
        filters={"clip": expected(ALL), "object": expected(ALL)},
    )
    write_card(store, settings, teacher=ALL, licence=ALL, images_per_second=1.0)
    front_matter, body = split(tmp_path / "README.md")
    assert front_matter["license"] == "other" and len(front_matter["configs"]) == 2
    check(body, images=1, columns={2})
    (example,) = [token.content for token in shown(body) if token.type == "fence"]
    assert example.startswith("from datasets import")
    assert kinds(body).count("heading_open") == 4

    write_page(store, 0, [row], gone)
    write_index(store)
    html_tags((tmp_path / "preview" / "train-00000.html").read_text())


def test_the_card_of_photographs(tmp_path: Path) -> None:
    folder = tmp_path / "a|b`<b>[x](javascript:alert(1))"
    folder.mkdir(parents=True)
    Image.new("RGB", (80, 80), "red").save(folder / "0.png")
    import_photos(str(folder), PhotoSettings(image_size=8), tmp_path / "set", progress=False)
    front_matter, body = split(tmp_path / "set" / "README.md")
    assert front_matter["configs"][0]["config_name"] == "default"
    check(body, images=1)
    assert kinds(body).count("heading_open") == 1


@pytest.mark.parametrize("text", [*HOSTILE, ALL])
def test_the_card_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Its metadata comes out of the model file, which may be anybody's."""
    metadata = {
        "edits": {text: text, "other": text},
        **dict.fromkeys(("teacher", "licence", "training_size", "data_fingerprint", "validated_on"), text),
    }

    class Loaded:
        @classmethod
        def load(cls, *_: Any) -> "Loaded":
            return cls()

        @property
        def metadata(self) -> dict[str, Any]:
            return metadata

    monkeypatch.setattr("inference.runtime.Translator", Loaded)
    monkeypatch.setattr(RunFolder, "read_evaluation", lambda self: evaluation(text))
    recipe = _recipe(expected(text) or "x", expected(text) or "x")
    write_model_card(recipe, tmp_path)
    front_matter, body = split(tmp_path / "README.md")
    assert front_matter["license"] == "other" and front_matter["pipeline_tag"] == "image-to-image"
    assert "base_model" not in front_matter
    check(body, links=1)
    assert kinds(body).count("heading_open") == 4 and kinds(body).count("table_open") == 2
    (example,) = [token.content for token in shown(body) if token.type == "fence"]
    calls = [node for node in ast.walk(ast.parse(example)) if isinstance(node, ast.Call)]
    assert len(calls) == 3
    assert text in [each.value for call in calls for each in call.args if isinstance(each, ast.Constant)]


@pytest.mark.parametrize("text", [*HOSTILE, ALL])
def test_metrics_and_artifacts(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    page = markdown_table(evaluation(text))
    check(page, columns={3 + len(_COLUMNS)})

    encoded_image = io.BytesIO()
    Image.new("RGB", (4, 4)).save(encoded_image, "PNG")
    check(artifacts.markdown_image(encoded_image.getvalue(), text), images=1)

    sent: dict[str, Any] = {}
    monkeypatch.setattr("prefect.artifacts.create_link_artifact", lambda link, **more: sent.update(more, link=link))
    for place in (text.replace("\0", ""), f"s3://bucket/{text}", f"javascript://{text}", f"JavaScript://x/{text}"):
        artifacts.show_link("key", place, text)
        check(sent["description"])
        written = f"[{sent['link_text']}]({sent['link']})"
        assert kinds(written).count("link_open") == 1 and "image" not in kinds(written)
        assert sent["link"].startswith(("file:///", "s3://")), sent["link"]


def test_pages_escape_by_themselves() -> None:
    """A template that prints a value escapes it; only the pieces make tags."""
    encoded_image = io.BytesIO()
    Image.new("RGB", (4, 4)).save(encoded_image, "PNG")
    source = '{% import "pieces.html" as pieces %}{{ pieces.figure(image) }}{{ pieces.table(rows) }}{{ text }}'
    page = TEMPLATES.from_string(source).render(
        image=captioned(encoded_image.getvalue(), ALL), rows=[{ALL: ALL}], text=ALL
    )
    assert html_tags(page) == ["figure", "img", "figcaption", "div", "table", "tr", "th", "tr", "td"]


@pytest.mark.parametrize("text", [*HOSTILE, "\x1b[2J\x1b]0;title\x07"])
def test_a_terminal_gets_no_control_characters(text: str) -> None:
    lines = text_table(evaluation(text)).split("\n")
    assert len(lines) == 3 and all(line.isprintable() for line in lines)


def test_markdown_is_left_alone() -> None:
    assert escape(Markdown("**bold**")) == "**bold**"


def evaluation(text: str) -> dict[str, Any]:
    row = {"edit": text, "scenes": text, "method": text, **{name: 0.5 for name, _ in _COLUMNS.values()}}
    return {"num_scenes": 1, "split": text, "given": {text: text}, "edits": [row], "means": [row]}


def split(card: Path) -> tuple[dict[str, Any], str]:
    begin, header, body = card.read_text().split("---\n", 2)
    assert begin == ""
    return yaml.safe_load(header), body


def html_tags(page: str) -> list[str]:
    """All tags in order; none of them may be one that a text brought."""
    tags: list[str] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append(tag)
            assert not {name for name, _ in attrs} & {"onerror", "onload"}

    Parser().feed(page)
    assert "b" not in tags or "<b>Scenes 0 to 0</b>" in page
    assert tags.count("script") <= 1
    return tags


def _recipe(name: str, teacher: str) -> Recipe:
    from flows.config.loading import load_recipe

    recipe = load_recipe("sofas")
    return recipe.model_copy(update={"name": name, "teacher": recipe.teacher.model_copy(update={"id": teacher})})
