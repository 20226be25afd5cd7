"""What an HTTP request brings, an image and a few fields, taken in within limits.

Uploads lie on disk once they are larger than a megabyte, so that many slow ones cost little memory.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import Annotated

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference.runtime import MAX_STRENGTH

SPOOL_BYTES = 2**20


@dataclass(frozen=True)
class Limits:
    """What one server takes on at once. An image in work needs about 20 bytes a pixel."""

    max_bytes: int = 32 * 2**20
    max_pixels: int = 25_000_000
    max_in_work: int = 8
    """Images decoded, edited and encoded at the same time."""
    max_waiting: int = 64
    """Uploaded images in line for that."""
    max_requests: int = 256
    """Requests from their first byte to the last byte of their answer."""
    upload_s: float = 60.0
    waiting_s: float = 60.0
    send_s: float = 60.0
    """For one chunk of the answer to leave."""


class Refused(Exception):
    """An answer other than 200: its status, one line, and headers."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None):
        super().__init__(detail)
        self.status = status
        self.headers = headers or ({"Retry-After": "1"} if status in (429, 503) else {})

    def response(self) -> JSONResponse:
        """The refusal as it goes out."""
        return JSONResponse({"detail": str(self)}, self.status, self.headers)


class Ask(BaseModel):
    """The fields of a request, from the query or the form; the form has the last word."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str | None, Field(max_length=200, description="May be left out where one model is served.")] = (
        None
    )
    edit: Annotated[str, Field(max_length=200, description="The name of one of the model's edits.")]
    strength: Annotated[
        float, Field(ge=-MAX_STRENGTH, le=MAX_STRENGTH, description="0 leaves the image, 1 is the edit as trained.")
    ] = 1.0


class Turnstile:
    """ASGI middleware: so many translations in the house, and none that cannot be sent to its client."""

    def __init__(self, app: ASGIApp, limits: Limits):
        self._app = app
        self._limits = limits
        self._num_inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 429; other paths are free, so that /healthz always answers."""
        if scope["type"] != "http" or scope["path"] != "/v1/translate":
            await self._app(scope, receive, send)
            return
        if self._num_inside >= self._limits.max_requests:
            refusal = Refused(429, f"{self._num_inside} requests are open already: try again in a moment")
            await refusal.response()(scope, receive, send)
            return

        stuck = False

        async def send_in_time(message: Message) -> None:
            nonlocal stuck
            try:
                async with asyncio.timeout(self._limits.send_s):
                    await send(message)
            except TimeoutError:
                stuck = True
                raise

        self._num_inside += 1
        try:
            await self._app(scope, receive, send_in_time)
        except Exception:
            if not stuck:
                raise  # else nobody listens: uvicorn closes the connection
        finally:
            self._num_inside -= 1


async def receive(request: Request, limits: Limits) -> tuple[UploadFile, dict[str, str]]:
    """The image that a request brings, at its first byte, and the form's other fields; the caller closes it.

    Raises Refused: 408, 413, 415, 422 for a form that cannot be read, 400 when the client is gone.
    """
    length = request.headers.get("content-length", "0")
    too_large = Refused(413, f"the request is larger than {limits.max_bytes} bytes")
    if not length.isdigit() or len(length) > 18 or int(length) > limits.max_bytes:
        raise too_large

    async def counted() -> AsyncGenerator[bytes, None]:
        num_bytes = 0
        async for chunk in request.stream():
            num_bytes += len(chunk)
            if num_bytes > limits.max_bytes:
                raise too_large
            yield chunk

    kind = parse_options_header(request.headers.get("content-type", "application/octet-stream"))[0].lower()
    try:
        async with asyncio.timeout(limits.upload_s):
            if kind == b"multipart/form-data":
                return await _receive_form(request, counted())
            if kind.startswith(b"image/") or kind == b"application/octet-stream":
                return await _receive_raw(counted()), {}
    except TimeoutError:
        raise Refused(408, f"the upload took longer than {limits.upload_s:g} s", {"Connection": "close"}) from None
    except ClientDisconnect:
        raise Refused(400, "the client is gone") from None
    raise Refused(
        415, "send the image as multipart/form-data, field `image`, or as the body with a Content-Type of image/..."
    )


async def _receive_form(request: Request, stream: AsyncGenerator[bytes, None]) -> tuple[UploadFile, dict[str, str]]:
    parser = MultiPartParser(request.headers, stream, max_files=1, max_fields=8, max_part_size=4096)
    parser.spool_max_size = SPOOL_BYTES
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refused(422, f"the form cannot be read: {error.message}") from None
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
