"""What a remote copy holds and what a run folder remembers of it, each checked when it is read."""

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Count = Annotated[int, Field(ge=0, lt=2**63)]
_STEP = r"step_[0-9]{1,9}"
_TRAINING = r"pixel/training-[0-9a-f]{16}"
_WEIGHTS = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\.(json|safetensors)"
_RUN_FILE = re.compile(
    "|".join(
        (
            r"recipe\.toml|stages\.json|timings\.json|promotion\.json|development\.json|dataset\.url|README\.md|excerpt\.parquet",
            r"metrics\.jsonl|training\.gif|report\.html|evaluation[a-z0-9-]*\.json|grid[a-z0-9-]*\.png",
            r"model(\.pixel)?[a-z0-9-]{0,40}\.(onnx|onnx\.data|torchscript|pt2)|processes-[A-Za-z0-9_.-]{1,100}\.log",
            rf"samples/{_STEP}\.png|student/{_WEIGHTS}|best/({_STEP}/)?{_WEIGHTS}",
            rf"pixel/network/{_WEIGHTS}|{_TRAINING}/(metrics\.jsonl|samples/{_STEP}\.png)",
            rf"({_TRAINING}/)?checkpoints/{_STEP}/(state\.json|adam\.safetensors|(student|averaged)/{_WEIGHTS})",
        )
    )
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class FileEntry(_Strict):
    """A file in the copy."""

    size: Annotated[int, Field(ge=0, le=2**50)]
    sha256: _Digest


class Index(_Strict):
    """Which files of the copy belong together."""

    files: dict[str, FileEntry] = {}
    pending: dict[str, FileEntry] = {}
    """The new content of files that an upload is replacing."""

    def accepted(self, name: str) -> set[str]:
        """The digests that the copy's file may have now."""
        return {files[name].sha256 for files in (self.files, self.pending) if name in files}


class SeenFile(_Strict):
    """A local file when it was last read: its digest holds as long as its size and time do."""

    size: _Count
    mtime_ns: int
    sha256: _Digest


class State(_Strict):
    """What a run folder remembers of its copy."""

    model_config = ConfigDict(extra="ignore")  # older folders remember a pointer, too

    url: str = ""
    common: dict[str, _Digest] = {}
    """The digest of each file when folder and copy last agreed."""
    seen: dict[str, SeenFile] = {}


def is_run_file(name: str) -> bool:
    """Whether a relative name, with forward slashes, is that of a file to copy with a run.

    The dataset has its own storage, and latents are computed from it.
    """
    return _RUN_FILE.fullmatch(name) is not None


def first_problem(error: ValidationError) -> str:
    """Describe the first problem without the value, which may be anything."""
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))[:80]!r}: {first['msg'][:200]}"
