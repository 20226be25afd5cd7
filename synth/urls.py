"""Tells URLs from paths, and finds credentials in them.

A URL is stored and shown in many places: the recipe, `dataset.url`, reports, logs, errors. So a URL with a password
is refused where it enters, and is redacted wherever it is printed.
"""

import re

_USER_INFO = re.compile(r"(?<=://)(?![^\s/@:]*:[0-9]{1,5}(?:/|$))[^\s/@:]*:[^\s@]*@")  # a secret may contain a slash
_TOKEN = re.compile(r"(?<=http://)[^\s/@:]+@|(?<=https://)[^\s/@:]+@")  # https://TOKEN@host
_QUERY = re.compile(
    r"(?<=[?&])(?P<name>[^=&\s]*(?:token|secret|password|passwd|signature|credential|api_?key|access_?key)[^=&\s]*"
    r"|sig|key|auth)=[^&\s]+",
    re.IGNORECASE,
)
_REPOSITORIES = ("github://", "git://")  # ORG:REPOSITORY@ is an address there, not a secret


def is_url(name: str) -> bool:
    """Return whether a name is a URL as fsspec reads it, rather than a path on this machine."""
    return "://" in name or "::" in name or name.startswith("data:")


def redact(text: str) -> str:
    """Replace the credentials of every URL in a text: `s3://***@bucket/sofas`."""
    for pattern in (_USER_INFO, _TOKEN):
        text = pattern.sub("***@", text)
    return _QUERY.sub(r"\g<name>=***", text)


def has_credentials(url: str) -> bool:
    """Return whether a URL contains a password, a token or a signature."""
    return "://" in url and not url.startswith(_REPOSITORIES) and redact(url) != url


def credentials_refused(url: str) -> str:
    """Return the error message for such a URL, without the credentials."""
    return (
        f"{redact(url)} has credentials in it, and URLs are stored and shown: move them to the environment "
        "(AWS_ACCESS_KEY_ID, HF_TOKEN, ...) or to fsspec's configuration"
    )
