"""Words of every script: in names, in the names of files, and inside sentences.

`\\w` of `re` knows letters and digits of every script, but not the marks that some scripts write vowels with.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable

_MARKS = (
    r"\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff"
)
WORD_CHARACTERS = rf"\w{_MARKS}"
"""What stands between the brackets of a regular expression: letters, marks and digits of every script, and `_`."""

# Thai, Lao, Burmese, Khmer, kana and Chinese characters: between their words there is no space.
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_HANGUL = re.compile(r"[\u1100-\u11ff\uac00-\ud7af]")  # a Korean word carries its particle behind it

_MAX_BYTES = 120  # of a name made from words: file systems allow 255 for a whole name


def nfc(text: str) -> str:
    """Return a text in Unicode's composed form: other programs and macOS's file names have letters in pieces."""
    return unicodedata.normalize("NFC", text)


def slug(text: str) -> str:
    """Make part of a file's name out of words: lower-case letters and digits of any script, joined by hyphens.

    What is left is cut to 120 bytes. A cut name, and one of which nothing is left, ends with a hash of the whole
    text, so that two names stay two.
    """
    words = nfc(re.sub(rf"[^{WORD_CHARACTERS}]+|_+", "-", nfc(text).lower())).strip("-")
    return _cut(words, text)


def ascii_slug(text: str) -> str:
    """Make a key of lower-case ASCII letters, digits and hyphens, for services that take no others.

    Two texts that differ in other letters get two keys: a hash stands for these letters.
    """
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if text.isascii() and words:
        return _cut(words, text)
    return "-".join(part for part in (words[: _MAX_BYTES - 9], _hash(text)) if part)


def whole_words(words: Iterable[str]) -> str:
    """Return a regular expression for any of the texts, where each stands as a word of its own.

    In a script without spaces a word may stand inside a sentence: 夏天 in 夏天的街道.
    """
    return "|".join(f"{_start(text[0])}{re.escape(text)}{_end(text[-1])}" for text in words)


def _start(character: str) -> str:
    return "" if _UNSPACED.match(character) else rf"(?<![{WORD_CHARACTERS}])"


def _end(character: str) -> str:
    is_open = _UNSPACED.match(character) or _HANGUL.match(character)
    return "" if is_open else rf"(?![{WORD_CHARACTERS}])"


def _cut(words: str, text: str) -> str:
    if words and len(words.encode()) <= _MAX_BYTES:
        return words
    start = words.encode()[: _MAX_BYTES - 9].decode(errors="ignore").rstrip("-")
    return "-".join(part for part in (start, _hash(text)) if part)


def _hash(text: str) -> str:
    return hashlib.sha256(nfc(text).encode(errors="surrogatepass")).hexdigest()[:8]
