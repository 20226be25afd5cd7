"""Model files over HTTP: an image in, the edited image out as PNG, and a page that does it in the browser.

    GET  /               the page: the image stays in the browser, only the model comes from here
    POST /v1/translate   the image as multipart field `image` or as the raw body; model, edit and strength as query
                         or form fields
    GET  /v1/models      what is served, each with its edits
    GET  /healthz        is it up
    GET  /docs           the same for people, and /openapi.json for programs

It refuses early and with a reason, `{"detail": "one line"}`: 401 wrong token, 408 upload too slow, 413 too many bytes
or pixels, 415 no image in a format it reads, 422 a broken image or a field that makes no sense, 429 too many
requests at once, 503 waited too long. Made for a trusted network; towards the open internet put a
reverse proxy with TLS before it.
"""

import asyncio
import difflib
import io
import secrets
import socket
import warnings
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import uvicorn
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel

from inference import page
from inference.batcher import BatchingTranslator
from inference.runtime import Translator, TranslatorError
from inference.uploads import Ask, Limits, Refused, Turnstile, parse_fields, receive
from inference.web import fetch

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # not all of Pillow's: some start other programs
CHUNK_BYTES = 2**16  # of an answer: a slow reader then holds up the sender, not the memory


class ServerError(TranslatorError):
    """The server cannot be set up as asked."""


class ServedModel(BaseModel):
    """One of the models that are served."""

    name: str
    edits: dict[str, str]
    """Each edit's name and an example of its target prompt."""
    about: dict[str, Any]
    """Teacher, licence and what it was validated on, as the file says."""


class Models(BaseModel):
    """All that is served."""

    models: list[ServedModel]


def load_models(locations: Iterable[str], providers: Sequence[str] | None = None) -> dict[str, BatchingTranslator]:
    """Open model files, each named as its metadata say, or by its file's name; `NAME=file.onnx` names it anew.

    Raises ModelFileError for what cannot be opened, ServerError when two have the same name.
    """
    models: dict[str, BatchingTranslator] = {}
    for location in locations:
        name, _, path = ("", "", location) if Path(location).exists() else location.rpartition("=")
        translator = BatchingTranslator.load(path, providers)
        name = name or str(translator.metadata.get("name") or Path(path).stem)
        if name in models:
            raise ServerError(f"two of the models are called {name}: name them anew, as in other={path}")
        models[name] = translator
    return models


def create_app(
    translators: Mapping[str, Translator], limits: Limits | None = None, token: str | None = None
) -> FastAPI:
    """The application over `translators`, by name. It closes them in the end, where they can be closed.

    token: when given, all under /v1 and the model files want it as `Authorization: Bearer ...`.

    Raises ServerError for a token that no header can carry, or where there are no models.
    """
    limits = limits or Limits()
    if not translators:
        raise ServerError("no model to serve: name at least one")
    if token is not None and not (token.isascii() and token.isprintable() and token and " " not in token):
        raise ServerError("the token is empty or has spaces or letters beyond ASCII: choose another")
    in_work = asyncio.Semaphore(limits.max_in_work)
    num_waiting = 0
    pool = ThreadPoolExecutor(limits.max_in_work, thread_name_prefix="translate")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield  # uvicorn comes back here when the last request is answered
        pool.shutdown()
        for translator in translators.values():
            if isinstance(translator, BatchingTranslator):
                translator.close()

    app = FastAPI(title="dds-distillery", description="Edits distilled out of diffusion models.", lifespan=lifespan)
    app.add_middleware(Turnstile, limits=limits)
    app.add_exception_handler(Refused, _refuse)
    app.add_exception_handler(TranslatorError, _refuse)
    bearer = HTTPBearer(auto_error=False, description="The server's token, where it has one.")

    def authorise(credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        given = credentials.credentials if credentials else ""
        if token is not None and not secrets.compare_digest(given.encode(), token.encode()):
            raise Refused(
                401, "this server wants its token: Authorization: Bearer ...", {"WWW-Authenticate": "Bearer"}
            )

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Is it up?"""
        return {"status": "ok"}

    @app.get("/v1/models", dependencies=[Depends(authorise)])
    async def models() -> Models:
        """What is served, and the edits that each model makes."""
        told = ("teacher", "licence", "validated_on", "training_size", "precision")
        return Models(
            models=[
                ServedModel(
                    name=name,
                    edits=translator.edits,
                    about={key: translator.metadata[key] for key in told if key in translator.metadata},
                )
                for name, translator in translators.items()
            ]
        )

    @app.post(
        "/v1/translate",
        dependencies=[Depends(authorise)],
        response_class=StreamingResponse,
        responses=_RESPONSES,
        openapi_extra=_REQUEST,
    )
    async def translate(request: Request) -> Response:
        """Make an edit in a picture of any size; the answer is a PNG of the same size, upright."""
        nonlocal num_waiting
        upload, form = await receive(request, limits)
        try:
            ask = parse_fields(dict(request.query_params) | form)
            translator = _choose(translators, ask.model)
            translator([], ask.edit, ask.strength)  # no image: a wrong edit is told before it waits in line
            if num_waiting >= limits.max_waiting:
                raise Refused(429, f"{num_waiting} images are in line already: try again in a moment")
            num_waiting += 1
            try:
                async with asyncio.timeout(limits.waiting_s):
                    await in_work.acquire()
            except TimeoutError:
                raise Refused(503, f"no turn within {limits.waiting_s:g} s: try again later") from None
            finally:
                num_waiting -= 1
            try:
                if await request.is_disconnected():
                    raise Refused(400, "the client is gone")
                loop = asyncio.get_running_loop()
                png = await loop.run_in_executor(pool, _edit, upload.file, translator, ask, limits.max_pixels)
            finally:
                in_work.release()
        finally:
            await upload.close()
        return StreamingResponse(_chunks(png), media_type="image/png", headers={"Content-Length": str(len(png))})

    app.include_router(page.make_router(translators, authorise))
    return app


def _choose(translators: Mapping[str, Translator], name: str | None) -> Translator:
    if name is None and len(translators) == 1:
        return next(iter(translators.values()))
    if name is not None and name in translators:
        return translators[name]
    near = difflib.get_close_matches(name or "", translators, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    problem = "no model is named" if name is None else f"unknown model {name!r}"
    raise Refused(422, f"{problem}: {hint}there is {', '.join(map(repr, translators))}")


def _edit(file: BinaryIO, translator: Translator, ask: Ask, max_pixels: int) -> bytes:
    """The uploaded image edited, as PNG. Runs in a thread of the pool."""
    if not file.read(1):
        raise Refused(422, "there is no image: its length is 0")
    file.seek(0)
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise Refused(415, f"this is no image, or in none of the formats {', '.join(FORMATS)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Refused(413, f"these are more than {max_pixels} pixels") from None
    except Exception as error:  # Pillow's readers raise whatever a broken header makes them stumble over
        raise Refused(422, f"the image cannot be read: {' '.join(str(error).split())}") from None
    with image:
        if image.width * image.height > max_pixels:
            raise Refused(413, f"{image.width}x{image.height} are more than {max_pixels} pixels")
        edited = translator(image, ask.edit, ask.strength)  # ImageError when it is broken
    buffer = io.BytesIO()
    # Level 1 takes a third of the default's time, and the file is a tenth larger.
    edited.save(buffer, "PNG", icc_profile=edited.info.get("icc_profile"), compress_level=1)
    return buffer.getvalue()


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), CHUNK_BYTES):
        yield content[start : start + CHUNK_BYTES]


async def _refuse(_: Request, error: Exception) -> Response:
    return (error if isinstance(error, Refused) else Refused(422, str(error))).response()


def make_server(app: FastAPI, graceful_s: int = 60) -> uvicorn.Server:
    """uvicorn around the application. When told to stop it takes no more, and answers what it has accepted."""
    config = uvicorn.Config(
        app,
        http="h11",  # one implementation everywhere
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        limit_concurrency=1024,  # connections: 503 beyond
        timeout_keep_alive=75,  # longer than clients keep one, or a request meets a closing connection
        timeout_graceful_shutdown=graceful_s,
        server_header=False,
    )
    return uvicorn.Server(config)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any that is free. Raises ServerError when the address cannot be had."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ServerError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error


def serve(app: FastAPI, listener: socket.socket, tell: Callable[[str], None]) -> None:
    """Answer on `listener` until SIGINT or SIGTERM; what was accepted is finished first."""
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # Limits decide, and say so
    host, port = listener.getsockname()[:2]
    tell(f"listening on http://{f'[{host}]' if ':' in host else host}:{port} (docs at /docs); Ctrl-C ends it")
    if not fetch.is_there():
        tell("its page needs onnxruntime-web: `make web` in the project fetches it; all else works without")
    with suppress(KeyboardInterrupt):  # uvicorn raises it again once all is answered, unless the shell ignores it
        make_server(app).run(sockets=[listener])
    tell("stopped")


_TEXT = {"application/json": {"schema": {"type": "object", "properties": {"detail": {"type": "string"}}}}}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The edited image.", "content": {"image/png": {}}},
    401: {"description": "The token is missing or wrong.", "content": _TEXT},
    408: {"description": "The upload took too long.", "content": _TEXT},
    413: {"description": "Too many bytes or pixels.", "content": _TEXT},
    415: {"description": "No image, or in a format that is not read here.", "content": _TEXT},
    422: {"description": "A broken image, an unknown edit or model, a strength out of range.", "content": _TEXT},
    429: {"description": "Too many requests at once.", "content": _TEXT},
    503: {"description": "It waited too long for its turn, or there are too many connections.", "content": _TEXT},
}
_PROPERTIES = Ask.model_json_schema()["properties"]
_BINARY = {"type": "string", "format": "binary"}
_REQUEST: dict[str, Any] = {
    "parameters": [
        {
            "name": name,
            "in": "query",
            "required": False,
            "schema": schema,
            "description": schema.get("description", ""),
        }
        for name, schema in _PROPERTIES.items()
    ],
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["image"], "properties": {"image": _BINARY, **_PROPERTIES}}
            },
            "image/*": {"schema": _BINARY},
            "application/octet-stream": {"schema": _BINARY},
        },
    },
}
