"""What an HTTP request brings, an image and a few fields, taken in within limits.

Uploads lie on disk once they are larger than a megabyte, so that many slow ones cost little memory.
"""

import asyncio
import errno
import re
from collections.abc import AsyncGenerator
from tempfile import SpooledTemporaryFile
from typing import Annotated, Any

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from inference.runtime import MAX_STRENGTH
from inference.server.limits import Limits, Refused
from inference.server.transfers import Transfer, Transfers

SPOOL_BYTES = 2**20
CHARSETS = ("utf-8", "us-ascii", "iso-8859-1")
"""Of a form's fields; Python knows many more, and some of them are none of text."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE)


def _as_json_writes_it(value: Any) -> Any:
    """Let no number through that only Python reads: 1_0, inf, digits of other scripts, spaces around."""
    if isinstance(value, str) and not re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", value):
        raise ValueError("give a number as JSON writes it, such as 0.8")
    return value


class Ask(BaseModel):
    """The fields of a request, from the query or the form; the form has the last word."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str | None, Field(max_length=200, description="May be left out where one model is served.")] = (
        None
    )
    edit: Annotated[str, Field(max_length=200, description="The name of one of the model's edits.")]
    strength: Annotated[
        float,
        BeforeValidator(_as_json_writes_it),
        Field(ge=-MAX_STRENGTH, le=MAX_STRENGTH, description="0 leaves the image, 1 is the edit as trained."),
    ] = 1.0


async def receive(request: Request, limits: Limits, transfers: Transfers) -> tuple[UploadFile, dict[str, str]]:
    """The image that a request brings, at its first byte, and the form's other fields; the caller closes it.

    Raises Refused: 408, 413, 415, 422 for a form that cannot be read, 400 when the client is gone, 503 when there is
    no room on the disk for it.
    """
    length = request.headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()) or len(length) > 18 or int(length) > limits.max_bytes:
        raise _too_large(limits)
    kind, options = parse_options_header(request.headers.get("content-type", "application/octet-stream"))
    kind = kind.lower()
    charset = options.get(b"charset", b"utf-8").decode("latin-1").lower()
    if charset not in CHARSETS:
        raise Refused(415, f"the charset {charset[:40]!r} is not one of {', '.join(CHARSETS)}")
    timeout = asyncio.timeout(limits.patience_s + 3)
    try:
        with transfers.track() as transfer:
            async with timeout:
                with transfer.under(timeout):
                    stream = _counted(request, limits, transfer, timeout)
                    if kind == b"multipart/form-data":
                        return await _receive_form(request, stream)
                    if kind.startswith(b"image/") or kind == b"application/octet-stream":
                        return await _receive_raw(stream), {}
    except TimeoutError:
        problem = f"the upload took longer than {limits.upload_s:g} s, or came more slowly than"
        detail = f"{problem} {limits.min_upload_rate} bytes a second"
        raise Refused(408, detail, {"Connection": "close"}) from None
    except ClientDisconnect:
        raise Refused(400, "the client is gone") from None
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise Refused(503, "the server has no room for the upload now: try again later") from error
    raise Refused(
        415, "send the image as multipart/form-data, field `image`, or as the body with a Content-Type of image/..."
    )


def _too_large(limits: Limits) -> Refused:
    return Refused(413, f"the request is larger than {limits.max_bytes} bytes")


async def _counted(
    request: Request, limits: Limits, transfer: Transfer, timeout: asyncio.Timeout
) -> AsyncGenerator[bytes, None]:
    """The body's chunks; each moves the upload's deadline by what it brought, up to `upload_s` in all."""
    started_s = asyncio.get_running_loop().time()
    # A few seconds before the rate counts: a connection has to gather speed.
    grace_s = limits.patience_s + 3
    timeout.reschedule(started_s + min(grace_s, limits.upload_s))
    async for chunk in request.stream():
        transfer.num_bytes += len(chunk)
        if transfer.num_bytes > limits.max_bytes:
            raise _too_large(limits)
        allowed_s = grace_s + transfer.num_bytes / limits.min_upload_rate
        if not timeout.expired():
            timeout.reschedule(started_s + min(allowed_s, limits.upload_s))
        yield chunk


async def _receive_form(request: Request, stream: AsyncGenerator[bytes, None]) -> tuple[UploadFile, dict[str, str]]:
    parser = MultiPartParser(request.headers, stream, max_files=1, max_fields=8, max_part_size=4096)
    parser.spool_max_size = SPOOL_BYTES
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refused(422, f"the form cannot be read: {error.message}") from None
    except (LookupError, ValueError) as error:  # names or values that its decoders stumble over
        raise Refused(422, f"the form cannot be read: {' '.join(str(error).split())}") from None
    upload = form.get("image")
    if not isinstance(upload, UploadFile):
        await form.close()
        raise Refused(422, "the form has no file in a field `image`")
    return upload, {name: value for name, value in form.multi_items() if isinstance(value, str)}


async def _receive_raw(stream: AsyncGenerator[bytes, None]) -> UploadFile:
    # Starlette's wrapper writes to disk in another thread, once the file has outgrown its memory.
    upload = UploadFile(SpooledTemporaryFile(SPOOL_BYTES), size=0)  # type: ignore[arg-type]  # noqa: SIM115
    try:
        async for chunk in stream:
            await upload.write(chunk)
        await upload.seek(0)
    except BaseException:
        await upload.close()
        raise
    return upload


def parse_fields(fields: dict[str, str]) -> Ask:
    """The fields, checked; raises Refused with 422."""
    try:
        return Ask.model_validate(fields)
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, item['loc']))[:50]}: {item['msg']}" for item in error.errors())
        raise Refused(422, "; ".join(problems)) from None
