"""ASGI middleware around the application: what is refused before it is asked, and when a slow client is let go.

`Gate` refuses what a browser sends on behalf of another site: without a token the server trusts its network, and a
page from elsewhere must not borrow that trust, neither by a post of its own nor by a name that it has pointed here
(DNS rebinding). `Turnstile` bounds the translations that are open, and the time that an answer may take to leave.
"""

import asyncio
import contextlib
import ipaddress
import re
from collections.abc import Collection
from contextlib import nullcontext, suppress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference.server.limits import Limits, Refused
from inference.server.models import ServerError
from inference.server.transfers import Transfer, Transfers

TRANSLATE = "/v1/translate"
_ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")
PERMISSIONS = (
    "camera=(), display-capture=(), geolocation=(), hid=(), microphone=(), midi=(), payment=(), serial=(), usb=()"
)
"""What a browser lets a document do that was served here: it has no use for any of it."""
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": PERMISSIONS,
}


class Gate:
    """Refuse requests that contradict themselves, and, without a token, those that come from other sites."""

    def __init__(self, app: ASGIApp, allowed_hosts: Collection[str] | None, allowed_origins: Collection[str] = ()):
        """allowed_hosts: names by which the server is asked; None where a token guards it, and any will do.

        allowed_origins: of other sites' pages that may ask all the same, as `check_origins` returns them.
        """
        self._app = app
        self._allowed_origins = frozenset(allowed_origins)
        self._allowed_hosts = None if allowed_hosts is None else {name.lower().rstrip(".") for name in allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._check(scope, Headers(scope=scope))
        except Refused as refusal:
            await refusal.response()(scope, receive, send_guarded)
            return
        await self._app(scope, receive, send_guarded)

    def _check(self, scope: Scope, headers: Headers) -> None:
        if "transfer-encoding" in headers and "content-length" in headers:
            # Two lengths: a proxy may believe the one and this server the other.
            detail = "the request has both Content-Length and Transfer-Encoding: send one"
            raise Refused(400, detail, {"Connection": "close"})
        if self._allowed_hosts is None:
            return
        hosts = headers.getlist("host")
        host = hosts[0] if len(hosts) == 1 else ""
        if not self._is_ours(host):
            raise Refused(
                421,
                f"this server is not {host[:100]!r}: ask it by its address, start it with --allowed-host NAME, "
                "or give it a token",
            )
        origin = headers.get("origin")
        if origin in self._allowed_origins:
            return
        # A link may lead here from anywhere; that shows a page, and hands nothing to the site that it is on.
        is_visit = scope["method"] in ("GET", "HEAD") and headers.get("sec-fetch-mode") == "navigate"
        from_elsewhere = headers.get("sec-fetch-site") in ("cross-site", "same-site") and not is_visit
        if from_elsewhere or (origin is not None and _netloc(origin) != host.lower()):
            raise Refused(
                403, "the request comes from another site's page: ask from this server's own, or use a token"
            )

    def _is_ours(self, host: str) -> bool:
        """Whether the Host header names this server: by an address, which nobody can point elsewhere, or a name."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        if name == "localhost" or name in (self._allowed_hosts or ()):
            return True
        with suppress(ValueError):
            ipaddress.ip_address(name)
            return True
        return False


def check_origins(origins: Collection[str], has_token: bool) -> list[str]:
    """The origins as browsers send them; raises ServerError for what is none."""
    checked = []
    for given in origins:
        origin = given.strip().lower().removesuffix("/")
        if origin == "*":
            if not has_token:
                raise ServerError("the origin * lets every web page use the server: set DISTILLERY_TOKEN with it")
        elif not _ORIGIN.fullmatch(origin):
            raise ServerError(f"{given[:100]!r} is not an origin: write one as in https://app.example")
        # Browsers leave a scheme's own port out.
        checked.append(re.sub(r"^(https://.*):443$|^(http://.*):80$", r"\1\2", origin))
    return checked


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


class Turnstile:
    """So many translations at once, and no answer, of whatever path, that never leaves."""

    def __init__(self, app: ASGIApp, limits: Limits, transfers: Transfers):
        self._app = app
        self._limits = limits
        self._transfers = transfers
        self._num_inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 429; other paths are free, so that /healthz always answers."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"] != TRANSLATE:
            await self._pass(scope, receive, send)
            return
        # Where all places are taken, a slow upload or a slow reader makes room.
        if self._num_inside >= self._limits.max_requests and not self._transfers.drop_slowest():
            refusal = Refused(429, f"{self._num_inside} requests are open already: try again in a moment")
            await refusal.response()(scope, receive, send)
            return
        self._num_inside += 1
        try:
            await self._pass(scope, receive, send)
        finally:
            self._num_inside -= 1

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application, whose answer leaves in time or is cut off."""
        stuck = False
        with contextlib.ExitStack() as stack:
            deadline_s = 0.0
            transfer: Transfer | None = None

            async def send_in_time(message: Message) -> None:
                nonlocal stuck, deadline_s, transfer
                if message["type"] == "http.response.start":
                    length = int(Headers(raw=message["headers"]).get("content-length", 0))
                    allowed_s = self._limits.send_s + length / self._limits.min_send_rate
                    deadline_s = asyncio.get_running_loop().time() + allowed_s
                    held = length if scope["path"] == TRANSLATE and message["status"] == 200 else 0
                    transfer = stack.enter_context(self._transfers.track(held))
                try:
                    timeout = asyncio.timeout_at(deadline_s)
                    async with timeout:
                        with transfer.under(timeout) if transfer else nullcontext():
                            await send(message)
                except TimeoutError:
                    stuck = True
                    raise
                if transfer:
                    transfer.num_bytes += len(message.get("body", b""))

            try:
                await self._app(scope, receive, send_in_time)
            except Exception:
                if not stuck:
                    raise
            if stuck and (abort := scope.get("state", {}).get("abort")):
                abort()  # nobody listens: what is not sent yet would be kept for as long as the client likes
                await asyncio.sleep(0)
                await asyncio.sleep(0)
