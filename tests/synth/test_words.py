"""Words of every script as names, as parts of file names and in sentences."""

import re
import unicodedata

import pytest

from synth.words import ascii_slug, slug, whole_words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Red  leather!", "red-leather"),
        ("Зимняя улица", "зимняя-улица"),
        ("冬天的街道", "冬天的街道"),
        ("شارع شتوي", "شارع-شتوي"),
        ("सर्दियों की सड़क", "सर्दियों-की-सड़क"),
        ("Ä_b", "ä-b"),
        (unicodedata.normalize("NFD", "Зимний"), "зимний"),
        ("../a/b\\c:d", "a-b-c-d"),
        ("\u202eevil\u200b", "evil"),
    ],
)
def test_names_are_readable_in_every_script(text: str, expected: str) -> None:
    assert slug(text) == unicodedata.normalize("NFC", expected)


def test_two_names_stay_two() -> None:
    long = "冬" * 60
    assert len({slug(text) for text in ("!", "?", long, long + "天")}) == 4
    assert all(len(slug(text).encode()) <= 120 for text in (long, "x" * 500, "🦊"))
    keys = [ascii_slug(text) for text in ("зима", "лето", "sofas-лето", "sofas", "!", "x" * 500)]
    assert len(set(keys)) == 6 and keys[3] == "sofas" and keys[2].startswith("sofas-")
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", key) and len(key) <= 120 for key in keys)


@pytest.mark.parametrize(
    ("word", "text", "expected"),
    [
        ("cat", "a cat, a catalogue", "a X, a catalogue"),
        ("кот", "кот и котлета", "X и котлета"),
        ("夏天", "夏天的街道", "X的街道"),
        ("猫", "一只猫在沙发上", "一只X在沙发上"),
        ("여름", "여름의 거리, 한여름", "X의 거리, 한여름"),
        ("क", "क कि", "X कि"),
    ],
)
def test_words_are_found_as_each_script_has_them(word: str, text: str, expected: str) -> None:
    assert re.sub(whole_words([word]), "X", text) == expected
