"""What a remote copy's index holds, and what a run folder remembers of it: checked as they are read."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class FileEntry(_Strict):
    """A file of the copy."""

    size: Annotated[int, Field(ge=0, le=2**50)]
    sha256: _Digest


class Index(_Strict):
    """Which files of the copy belong together."""

    files: dict[str, FileEntry] = {}
    pending: dict[str, FileEntry] = {}

    def accepted(self, name: str) -> set[str]:
        """The digests that the file there may have."""
        return {part[name].sha256 for part in (self.files, self.pending) if name in part}


class SeenFile(_Strict):
    """A file here, as it was read last: while size and time stay, so does the digest."""

    size: _Count
    mtime_ns: int
    sha256: _Digest


class State(_Strict):
    """What a run folder remembers of its copy."""

    url: str = ""
    common: dict[str, _Digest] = {}
    """As folder and copy last agreed."""
    seen: dict[str, SeenFile] = {}
    pointer: _Digest | None = None


def first_problem(error: ValidationError) -> str:
    """The first thing that is wrong, without what was given."""
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))[:80]!r}: {first['msg'][:200]}"
