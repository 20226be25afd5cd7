"""Templates that escape every value: cards (README.md as the Hub shows it, YAML in front) and HTML pages."""

import base64
import re
from functools import cache

from huggingface_hub import CardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from synth.markdown import code, escape

_HUB_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")  # apache-2.0, creativeml-openrail-m
_LOCAL_PATH = re.compile(r"/|~|\.{1,2}/|[A-Za-z]:\\|file:")


def render_card(package: str, template: str, front_matter: CardData, **values: object) -> str:
    """A card.

    Args:
        package: whose `templates` folder has the template.
        template: the file's name. What it shows of a value is escaped, but for `Markdown`.
        front_matter: what the Hub reads.
        values: what the template shows.
    """
    body = _environment(package).get_template(template).render(values)
    return f"---\n{front_matter.to_yaml()}\n---\n{body}"


def html_templates(package: str) -> Environment:
    """The HTML templates in a package's `templates` folder; a value that is missing is an error."""
    return Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def data_url(encoded: bytes) -> str:
    """A PNG or JPEG file as a URL that holds it."""
    kind = "png" if encoded.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}"


def hub_licence(licence: str) -> str:
    """A licence as the Hub's front matter names it; the card's text has it in full."""
    return licence if _HUB_LICENCE.fullmatch(licence) else "other"


def public_name(name: str) -> str:
    """Return a name as it can be published: a path on this machine is shortened to its last component.

    A Hub id, a URL and any other text stay as they are.
    """
    is_path = "\n" not in name and _LOCAL_PATH.match(name)
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1] if is_path else name


def parquet_config(name: str, folder: str) -> dict[str, object]:
    """A configuration of a dataset, as front matter names one: the Parquet files of a folder."""
    return {"config_name": name, "data_files": [{"split": "train", "path": f"{folder}/train-*.parquet"}]}


@cache
def _environment(package: str) -> Environment:
    # Autoescape is HTML's; `finalize` sees each value and escapes it for Markdown.
    environment = Environment(
        loader=PackageLoader(package),
        undefined=StrictUndefined,
        finalize=escape,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["code"] = code
    return environment
