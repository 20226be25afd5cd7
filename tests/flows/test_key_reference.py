"""The generated page of all keys agrees with the settings."""

from pathlib import Path

from pydantic import BaseModel

from flows.config.key_reference import page
from flows.config.schema import Recipe

PAGE = Path(__file__).parents[2] / "docs" / "recipe-keys.md"


def without_description(model: type[BaseModel], table: str = "") -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        if not field.description:
            found.append(f"{table}{name}")
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += without_description(field.annotation, f"{table}{name}.")
    return found


def test_every_key_has_a_description() -> None:
    assert without_description(Recipe) == []


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run `python -m flows.config.key_reference > docs/recipe-keys.md`"


def test_the_page_has_types_bounds_and_defaults() -> None:
    text = page()
    assert "| `steps` | whole number, above 0, at most 100_000_000 | `125000` | Steps of the optimizer. |" in text
    assert '| `preset` | `short` or `paper` or `compact` | `"paper"` |' in text
    assert "## [scenes.filters]" in text
    assert "| `template` | text | required |" in text
