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
import secrets
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Annotated, Any, BinaryIO

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from starlette.middleware.cors import CORSMiddleware

from inference.runtime import ModelFileError, Translator, TranslatorError
from inference.server import page, schema
from inference.server.gate import Gate, Turnstile, check_origins
from inference.server.limits import Limits, PixelBudget, Refused
from inference.server.models import DIGEST_HEADER, ServerError, digest_of
from inference.server.served import Served
from inference.server.transfers import Transfers
from inference.server.uploads import Ask, parse_fields, receive
from synth.images import reader
from synth.images.writer import encode_image

CHUNK_BYTES = 2**16  # of an answer: a slow reader then holds up the sender, not the memory
MIN_TOKEN_CHARS = 16


class ServedModel(BaseModel):
    """One of the models that are served."""

    name: str
    edits: dict[str, str]
    """Each edit's name and an example of its target prompt."""
    about: dict[str, Any]
    """Teacher, licence and what it was validated on, as the file says."""
    digest: str | None
    """`sha256:...` of the model file, as X-Model-Digest has it on each answer."""


class Models(BaseModel):
    """All that is served."""

    models: list[ServedModel]


def create_app(
    translators: Mapping[str, Translator],
    limits: Limits | None = None,
    token: str | None = None,
    allowed_hosts: Collection[str] = (),
    allowed_origins: Collection[str] = (),
) -> FastAPI:
    """The application over `translators`, by name. It follows pointers while it runs, and closes all in the end.

    token: when given, all under /v1 and the model files want it as `Authorization: Bearer ...`, and there are no
        docs and no schema.
    allowed_hosts: names, beside addresses and localhost, by which the server may be asked where it has no token.

    allowed_origins: of pages elsewhere that may use the server, such as https://app.example (CORS); `*` is all pages,
        and needs a token.

    Raises ServerError for a token that is short or that no header can carry, for what is no origin, or where there
    are no models.
    """
    limits = limits or Limits()
    if not translators:
        raise ServerError("no model to serve: name at least one")
    if token is not None:
        _check_token(token)
    origins = check_origins(allowed_origins, has_token=token is not None)
    models = translators if isinstance(translators, Served) else Served(translators)
    transfers = Transfers(limits)
    pixels = PixelBudget(limits)
    in_work = asyncio.Semaphore(limits.max_in_work)
    num_waiting = 0
    pool = ThreadPoolExecutor(limits.max_in_work, thread_name_prefix="translate")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        models.start()
        yield  # uvicorn comes back here when the last request is answered
        pool.shutdown()
        models.close()

    app = FastAPI(
        title="dds-distillery",
        description="Edits distilled out of diffusion models.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's loads its script from elsewhere; `page` has one of ours
        redoc_url=None,
        openapi_url=None if token else "/openapi.json",
    )
    app.state.limits = limits
    app.add_middleware(Turnstile, limits=limits, transfers=transfers)
    app.add_middleware(Gate, allowed_hosts=None if token else allowed_hosts, allowed_origins=origins)
    if origins:  # outermost, so that pages can read refusals, too
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=[DIGEST_HEADER, "Retry-After"],
        )
    app.add_exception_handler(Refused, _refuse)
    app.add_exception_handler(TranslatorError, _refuse)
    bearer = HTTPBearer(auto_error=False, description="The server's token, where it has one.")

    def authorise(credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        given = credentials.credentials if credentials else ""
        if token is not None and not secrets.compare_digest(given.encode(), token.encode()):
            raise Refused(
                401, "this server wants its token: Authorization: Bearer ...", {"WWW-Authenticate": "Bearer"}
            )

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Is it up?"""
        return {"status": "ok"}

    @app.head("/v1/models", dependencies=[Depends(authorise)], include_in_schema=False)
    @app.get("/v1/models", dependencies=[Depends(authorise)])
    async def list_models() -> Models:
        """What is served, and the edits that each model makes."""
        told = ("teacher", "licence", "validated_on", "training_size", "precision")
        return Models(
            models=[
                ServedModel(
                    name=name,
                    edits=translator.edits,
                    about={key: translator.metadata[key] for key in told if key in translator.metadata},
                    digest=digest_of(translator),
                )
                for name, translator in models.items()
            ]
        )

    @app.post(
        "/v1/translate",
        dependencies=[Depends(authorise)],
        response_class=StreamingResponse,
        responses=schema.RESPONSES,
        openapi_extra=schema.REQUEST,
    )
    async def translate(request: Request) -> Response:
        """Make an edit in an image of any size; the answer is a PNG of the same size, upright."""
        nonlocal num_waiting
        upload, form = await receive(request, limits, transfers)
        try:
            ask = parse_fields(dict(request.query_params) | form)
            # One model from the check to the answer, whatever is exchanged meanwhile.
            with models.lease(_choose(models, ask.model)) as translator:
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
                    png = await loop.run_in_executor(pool, _edit, upload.file, translator, ask, limits, pixels)
                finally:
                    in_work.release()
                digest = digest_of(translator)
        finally:
            await upload.close()
        transfers.make_room(len(png))
        headers = {"Content-Length": str(len(png))}
        if digest:
            headers[DIGEST_HEADER] = digest
        return StreamingResponse(_chunks(png), media_type="image/png", headers=headers)

    app.include_router(page.make_router(app, models, authorise))
    return app


def _check_token(token: str) -> None:
    if not (token.isascii() and token.isprintable() and token and " " not in token):
        raise ServerError("the token is empty or has spaces or letters beyond ASCII: choose another")
    if len(token) < MIN_TOKEN_CHARS:
        raise ServerError(
            f"the token has {len(token)} letters and needs {MIN_TOKEN_CHARS}: "
            'make one with python -c "import secrets; print(secrets.token_urlsafe())"'
        )


def _choose(translators: Mapping[str, Translator], name: str | None) -> str:
    if name is None and len(translators) == 1:
        return next(iter(translators))
    if name is not None and name in translators:
        return name
    near = difflib.get_close_matches(name or "", translators, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    problem = "no model is named" if name is None else f"unknown model {name!r}"
    raise Refused(422, f"{problem}: {hint}there is {', '.join(map(repr, translators))}")


def _edit(file: BinaryIO, translator: Translator, ask: Ask, limits: Limits, pixels: PixelBudget) -> bytes:
    """The uploaded image edited, as PNG. Runs in a thread of the pool."""
    if not file.read(1):
        raise Refused(422, "there is no image: its length is 0")
    file.seek(0)
    with _refusing(), reader.open_lazily(file, limits.max_pixels) as image, pixels.share() as take:
        _check_size(image.width, image.height, limits)
        take(image.width * image.height)
        # Without EXIF and XMP: answers are passed on, and these tell places.
        edited = replace(translator(reader.read_image(image), ask.edit, ask.strength), exif=None, xmp=None)
        # Level 1 takes a third of the default's time, and the file is a tenth larger.
        return encode_image(edited, "PNG", compress_level=1)


@contextmanager
def _refusing() -> Iterator[None]:
    """Answer what is wrong with an image by a status of its own."""
    try:
        yield
    except reader.NotAnImageError as error:
        raise Refused(415, str(error)) from None
    except reader.TooLargeError as error:
        raise Refused(413, str(error)) from None
    except reader.ImageError as error:
        raise Refused(422, str(error)) from None


def _check_size(width: int, height: int, limits: Limits) -> None:
    """Refuse by the header, as the reader does for too many pixels: sides cost, too."""
    if max(width, height) > limits.max_side:
        raise Refused(413, f"{width}x{height}: a side is longer than {limits.max_side} pixels")
    if max(width, height) > limits.max_aspect * max(1, min(width, height)):
        raise Refused(413, f"{width}x{height}: one side is more than {limits.max_aspect:g} times the other")


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), CHUNK_BYTES):
        yield content[start : start + CHUNK_BYTES]


async def _refuse(_: Request, error: Exception) -> Response:
    if isinstance(error, Refused):
        return error.response()
    # A graph that does not do what its metadata say is no fault of the client's.
    return Refused(500 if isinstance(error, ModelFileError) else 422, str(error)).response()
