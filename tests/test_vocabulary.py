"""Words and phrases that are gone stay gone: `docs/glossary.md` has those that are used."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GONE = {
    r"\bsay\(": "logger.info",
    r"\btake_up": "download",
    r"\bgpu_alone\b": "exclusive_gpu",
    r"\bcan_pass\b|may pass\b": "is_transient, transient",
    r"\bPaintedSet\b": "ImageDataset",
    r"\b(Latent|UNet|Compact)Translator\b|\bnew_translator\b|\bload_translator\b": "Student",
    r"\b_?MOST_|\b_?LEAST_": "MAX_, MIN_",
    r"\btake_set\b|\bdrop_figures\b": "attach_dataset, drop_metrics",
    r"\bsigns_of\b|\bwrite_whole\b": "diagnose, write_bytes",
    r"\b(open|find|markdown)_pictures?\b": "open_image, find_images, markdown_image",
    r"(?<!there )\bis no [\w' -]{1,30}(folder|file|image|model|address|set|run|number|list|name|key)": "is not a ...",
    r"unless said|unless told": "(default: ...)",
    r"end of no way": "no effect without",
    r"\bdata set\b(?!/)": "dataset",
    r"(evaluate|study) translator\b": "evaluate student, study ablations",
    r"'changes=|\bchanges: \[": "overrides",
    r"--param part": "rank",
    r"\b(this|other|four|each|several|the) rooms? (owns|that)|rooms' settings|\bthis room's\b": "package",
    r"\bflows[./](mirror|robust|words|watching|stopping|signs|keys|figures|start|launch|process)\b": "the new module",
}
LEFT_ALONE = {"tests/test_vocabulary.py", "CHANGELOG.md", "LICENSE"}


def files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    kinds = {".py", ".md", ".toml", ".yaml", ".html", ".js", ".mjs", ".ipynb"}
    return [ROOT / name for name in listed.splitlines() if Path(name).suffix in kinds and name not in LEFT_ALONE]


TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files()}


@pytest.mark.parametrize("pattern", GONE)
def test_a_word_is_gone(pattern: str) -> None:
    found = [
        f"{name}:{text[: match.start()].count(chr(10)) + 1}: {match[0]}"
        for name, text in TEXTS.items()
        for match in re.finditer(pattern, text)
    ]
    assert not found, f"use {GONE[pattern]}:\n" + "\n".join(found)
