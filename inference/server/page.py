"""The browser's page over HTTP: its own few files, a list of the models, and the model files themselves."""

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from inference.runtime import Translator
from inference.server import docs_page
from inference.server.gate import PERMISSIONS
from inference.server.limits import Refused
from inference.server.models import DIGEST_HEADER, ModelBytes, ServedTranslator
from inference.server.served import Served
from inference.server.web import fetch

WEB = Path(__file__).parent / "web"
# These two let WebAssembly use all cores: a browser shares memory between threads for an isolated page alone.
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # ask each time; an unchanged file is a short answer
}
# The page itself may ask for the camera; `gate.py` forbids it to all else.
PAGE_POLICY = {"Permissions-Policy": PERMISSIONS.replace("camera=()", "camera=(self)")}
METHODS = ["GET", "HEAD"]
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".wasm": "application/wasm",
}


def make_router(app: FastAPI, served: Served, authorise: Callable[..., Any], web: Path = WEB) -> APIRouter:
    """The page at /, as static files have it, and the models under it. Only the models want the server's token."""
    router = APIRouter(include_in_schema=False)
    here = [path.name for path in web.iterdir() if path.suffix in _TYPES]
    for name in [*here, *(f"vendor/{name}" for name in fetch.FILES)]:
        _add_file(router, f"/{name}", web / name)
    _add_file(router, "/", web / "index.html")

    if app.openapi_url:

        @router.api_route("/docs", methods=METHODS)
        def docs() -> HTMLResponse:
            return HTMLResponse(
                docs_page.render(app.openapi()), headers=HEADERS | {"Content-Security-Policy": docs_page.CSP}
            )

    @router.api_route("/models.json", methods=METHODS, dependencies=[Depends(authorise)])
    def models() -> JSONResponse:
        files = {name: file for name in served if (file := _file_of(served[name])) is not None}
        listed = [
            {"name": name, "file": f"models/{quote(name)}.onnx", "digest": file.digest}
            for name, file in files.items()
        ]
        return JSONResponse(listed, headers=HEADERS)

    @router.api_route("/models/{name:path}.onnx", methods=METHODS, dependencies=[Depends(authorise)])
    def model(name: str, request: Request) -> Response:
        lease = served.lease(name) if name in served else nullcontext()
        with ExitStack() as until_sent:
            translator = until_sent.enter_context(lease)
            file = _file_of(translator) if translator is not None else None
            if file is None:
                raise Refused(404, f"no model {name[:200]!r} is served to pages")
            return _send(file, request, until_sent)

    return router


def _send(file: ModelBytes, request: Request, lease: ExitStack) -> Response:
    """The very bytes that the server runs, whatever lies under their name by now. The lease lasts until then."""
    file.check()
    etag = f'"{file.digest}"'
    headers = HEADERS | {"ETag": etag, DIGEST_HEADER: file.digest}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    headers["Content-Length"] = str(file.num_bytes)
    content = iter(()) if request.method == "HEAD" else file.chunks()
    response = _LeasedResponse(content, media_type="application/octet-stream", headers=headers)
    response.lease = lease.pop_all()
    return response


class _LeasedResponse(StreamingResponse):
    """Holds a lease until the answer is sent, or its client is gone."""

    lease: ExitStack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.lease:
            await super().__call__(scope, receive, send)


def _add_file(router: APIRouter, route: str, path: Path) -> None:
    headers = HEADERS | PAGE_POLICY if path.suffix == ".html" else HEADERS

    @router.api_route(route, methods=METHODS)
    def answer() -> FileResponse:
        if not path.is_file():
            raise Refused(404, f"{path.name} is not here: `make web` in the project puts onnxruntime-web in place")
        return FileResponse(path, media_type=_TYPES[path.suffix], headers=headers)


def _file_of(translator: Translator) -> ModelBytes | None:
    """The file of a model that a page can take: one in itself, for a page cannot hold what needs a second one."""
    if not isinstance(translator, ServedTranslator) or translator.bytes is None or translator.file is None:
        return None
    return None if translator.file.with_name(f"{translator.file.name}.data").exists() else translator.bytes
