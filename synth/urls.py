"""URLs as people give them, and the credentials that must not stand in one.

A URL is stored and shown in many places: the recipe, `dataset.url`, reports, logs, errors. So one with a password is
refused where it enters, and whatever prints a URL prints it redacted.
"""

import re

_USER_INFO = re.compile(r"(?<=://)(?![^\s/@:]*:[0-9]{1,5}(?:/|$))[^\s/@:]*:[^\s@]*@")  # a secret may have a slash
_TOKEN = re.compile(r"(?<=http://)[^\s/@:]+@|(?<=https://)[^\s/@:]+@")  # https://TOKEN@host
_QUERY = re.compile(
    r"(?<=[?&])(?P<name>[^=&\s]*(?:token|secret|password|passwd|signature|credential|api_?key|access_?key)[^=&\s]*"
    r"|sig|key|auth)=[^&\s]+",
    re.IGNORECASE,
)
_REPOSITORIES = ("github://", "git://")  # their ORG:REPOSITORY@ is a place, and no secret


def redact(text: str) -> str:
    """A text in which no URL has credentials: `s3://***@bucket/sofas`."""
    for pattern in (_USER_INFO, _TOKEN):
        text = pattern.sub("***@", text)
    return _QUERY.sub(r"\g<name>=***", text)


def has_credentials(url: str) -> bool:
    """Whether a URL carries a password, a token or a signature."""
    return "://" in url and not url.startswith(_REPOSITORIES) and redact(url) != url


def credentials_refused(url: str) -> str:
    """The line that says so, without them."""
    return (
        f"{redact(url)} has credentials in it, and a URL is stored and shown: put them into the environment "
        "(AWS_ACCESS_KEY_ID, HF_TOKEN, ...) or fsspec's configuration, and leave them out of the URL"
    )
