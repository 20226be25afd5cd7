"""The browser's page over HTTP: its own few files, a list of the models, and the model files themselves."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Depends
from fastapi.responses import FileResponse, JSONResponse

from inference.runtime import Translator
from inference.uploads import Refused
from inference.web import fetch

WEB = Path(__file__).parent / "web"
# These two let WebAssembly use all cores: a browser shares memory between threads for an isolated page alone.
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # ask each time; an unchanged file is a short answer
}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".wasm": "application/wasm",
}


def make_router(translators: Mapping[str, Translator], authorise: Callable[..., Any], web: Path = WEB) -> APIRouter:
    """The page at /, as static files have it, and the models under it. Only the models want the server's token."""
    router = APIRouter(include_in_schema=False)
    here = [path.name for path in web.iterdir() if path.suffix in _TYPES]
    for name in [*here, *(f"vendor/{name}" for name in fetch.FILES)]:
        _add_file(router, f"/{name}", web / name)
    _add_file(router, "/", web / "index.html")

    files = {name: translator.file for name, translator in translators.items() if _fits(translator)}

    @router.get("/models.json", dependencies=[Depends(authorise)])
    def models() -> JSONResponse:
        return JSONResponse([{"name": name, "file": f"models/{quote(name)}.onnx"} for name in files], headers=HEADERS)

    @router.get("/models/{name:path}.onnx", dependencies=[Depends(authorise)])
    def model(name: str) -> FileResponse:
        file = files.get(name)
        if file is None:
            raise Refused(404, f"no model {name!r} is served to pages")
        return FileResponse(file, media_type="application/octet-stream", headers=HEADERS)

    return router


def _add_file(router: APIRouter, route: str, path: Path) -> None:
    @router.get(route)
    def answer() -> FileResponse:
        if not path.is_file():
            raise Refused(404, f"{path.name} is not here: `make web` in the project puts onnxruntime-web in place")
        return FileResponse(path, media_type=_TYPES[path.suffix], headers=HEADERS)


def _fits(translator: Translator) -> bool:
    """Whether a page can take the model: one file, for a page cannot hold what needs a second one beside it."""
    file = translator.file
    return file is not None and not file.with_name(f"{file.name}.data").exists()
