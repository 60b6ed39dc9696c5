"""A small web server over a folder of runs: the list, each run live, and runs compared. It reads and never writes."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.errors import InputError, TrimtabError
from trimtab.journal import to_json
from trimtab.report.catalogue import Catalogue
from trimtab.report.document import compare_runs, describe_run
from trimtab.report.guard import App, Guard, require_token
from trimtab.report.page import read_plotly

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

ASSETS = Path(__file__).parent / "assets"
"""The folder of pages, scripts and styles."""

KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
"""The content types, by the endings of files."""

PLOTLY = "plotly.js"
"""The name under which the installed Plotly is served."""

LOOK_EVERY_SECONDS = 0.5
"""How often a page that is open is brought up to date."""

TELL_EVERY_SECONDS = 5.0
"""How often an open page hears of the server when nothing is new."""

MOST_COMPARED = 12
"""Runs that are compared at a time."""

MOST_DOCUMENTS = 8
"""Documents that are kept."""

GZIP_LEVEL, LEAST_GZIPPED = 5, 1024
"""How hard answers are compressed, and from how many bytes on."""


class Server:
    """The answers of the server; every method that answers a request is named after what it gives.

    Args:
        catalogue: the runs.
        is_stopping: True once the server is to end, so that open pages let go of it.
    """

    def __init__(self, catalogue: Catalogue, is_stopping: Callable[[], bool]) -> None:
        self._catalogue = catalogue
        self._is_stopping = is_stopping
        self._assets = {path.name: path.read_bytes() for path in ASSETS.iterdir() if path.suffix in KINDS}
        self._assets[PLOTLY] = read_plotly().encode()
        self._zipped: dict[str, bytes] = {}
        self._documents: OrderedDict[str, tuple[tuple[int, ...], bytes]] = OrderedDict()
        self._describing = threading.Lock()

    def build(self) -> App:
        """The web application, with a route for each of its answers."""
        from starlette.applications import Starlette
        from starlette.routing import Route

        pages = {"/": "runs.html", "/run/{name:path}": "run.html", "/compare": "compare.html"}
        routes = [Route(path, self._give_page(name)) for path, name in pages.items()]
        routes += [
            Route("/assets/{name}", self.give_asset),
            Route("/api/runs", self.give_runs),
            Route("/api/compare", self.give_comparison),
            Route("/api/run/{name:path}", self.give_document),
            Route("/events", self.follow_runs),
            Route("/events/{name:path}", self.follow_run),
        ]
        return Starlette(routes=routes)

    async def give_asset(self, request: Request) -> Response:
        """A script or a style."""
        name = request.path_params["name"]
        if name not in self._assets or name.endswith(".html"):
            return _say(404, "There is no such file.")
        if name not in self._zipped:
            self._zipped[name] = await _in_thread(gzip.compress, self._assets[name], GZIP_LEVEL)
        return _give(request, self._assets[name], KINDS[Path(name).suffix], self._zipped[name], "private, max-age=600")

    async def give_runs(self, request: Request) -> Response:
        """All runs, as JSON."""
        return _give(request, _to_bytes(await _in_thread(self._catalogue.list_runs)))

    async def give_document(self, request: Request) -> Response:
        """The document of a run, as JSON."""
        name = request.path_params["name"]
        try:
            content = await _in_thread(self._describe, name)
        except (TrimtabError, OSError) as error:
            return _say(409, f"This run cannot be read: {error}")
        return _say(404, "There is no such run.") if content is None else _give(request, content)

    async def give_comparison(self, request: Request) -> Response:
        """The document of a comparison of the runs that `?run=` names, as JSON."""
        names = list(dict.fromkeys(request.query_params.getlist("run")))
        folders = [folder for name in names if (folder := await _in_thread(self._catalogue.find, name))]
        if len(folders) < len(names) or not 1 < len(names) <= MOST_COMPARED:
            return _say(404, f"Name 2 to {MOST_COMPARED} runs of the list.")
        try:
            return _give(request, _to_bytes(await _in_thread(compare_runs, folders, names)))
        except (TrimtabError, OSError) as error:
            return _say(409, f"One of these runs cannot be read: {error}")

    async def follow_runs(self, request: Request) -> Response:
        """The runs that changed, as server-sent events: a name and what is known, or null where a run is gone."""
        return self._stream(request, self._tell_runs())

    async def follow_run(self, request: Request) -> Response:
        """How a run stands and the number of its newest version, as server-sent events."""
        name = request.path_params["name"]
        if await _in_thread(self._catalogue.find, name) is None:
            return _say(404, "There is no such run.")
        return self._stream(request, self._tell_run(name))

    def _give_page(self, name: str) -> Callable[[Request], Any]:
        """The answer of a page. It holds nothing of any run: its script asks for that, and sets it as text."""

        async def give_page(request: Request) -> Response:
            return _give(request, self._assets[name], KINDS[".html"])

        return give_page

    def _stream(self, request: Request, events: AsyncIterator[str]) -> Response:
        from starlette.responses import Response, StreamingResponse

        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        if request.method == "HEAD":
            return Response(headers=headers, media_type="text/event-stream")
        return StreamingResponse(events, headers=headers, media_type="text/event-stream")

    async def _tell_runs(self) -> AsyncIterator[str]:
        told: dict[str, str] = {}
        told_at = 0.0
        while not self._is_stopping():
            runs = await _in_thread(self._catalogue.list_runs)
            now = {name: json.dumps(each, sort_keys=True) for name, each in runs.items()}
            changed = {name: runs.get(name) for name in now.keys() | told.keys() if now.get(name) != told.get(name)}
            if changed or not told_at:
                yield _format_event("runs", {"runs": changed})
            elif time.monotonic() - told_at > TELL_EVERY_SECONDS:
                yield ": still here\n\n"
            else:
                await asyncio.sleep(2 * LOOK_EVERY_SECONDS)
                continue
            told, told_at = now, time.monotonic()

    async def _tell_run(self, name: str) -> AsyncIterator[str]:
        told: object = None
        told_at = 0.0
        while not self._is_stopping():
            seen = await _in_thread(self._catalogue.watch, name)
            if seen is None:
                yield _format_event("gone", {})
                return
            standing, version = seen
            news = version, standing.state
            if news != told or time.monotonic() - told_at > TELL_EVERY_SECONDS:
                yield _format_event("standing", {"version": version, **standing.to_dict()})
                told, told_at = news, time.monotonic()
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    def _describe(self, name: str) -> bytes | None:
        """The document of a run; one that was made since its last change is given again."""
        folder = self._catalogue.find(name)
        if folder is None:
            return None
        stamp = self._catalogue.read_stamp(name)
        with self._describing:
            known = self._documents.get(name)
            if known is None or known[0] != stamp:
                self._documents[name] = known = stamp, _to_bytes(describe_run(folder))
            self._documents.move_to_end(name)
            while len(self._documents) > MOST_DOCUMENTS:
                self._documents.popitem(last=False)
        return known[1]


def create_app(
    root: str | Path, host: str = "127.0.0.1", token: str | None = None, is_stopping: Callable[[], bool] = lambda: False
) -> App:
    """The web application of a folder of runs, guarded.

    Args:
        root: the folder.
        host: the address that it is bound to.
        token: what has to be shown; None for nothing, which only an address of this machine alone may have.
        is_stopping: True once the server is to end.

    Raises:
        InputError: if there is no such folder, a token is missing or too short, or a package is not installed.
    """
    require_token(host, token)
    _require_packages()
    catalogue = Catalogue(root)
    threading.Thread(target=_keep_judging, args=(catalogue, is_stopping), daemon=True).start()
    return Guard(Server(catalogue, is_stopping).build(), host, token)


def serve_runs(
    root: str | Path, host: str, port: int, token: str | None, on_open: Callable[[str], None] = lambda _: None
) -> None:
    """Serve a folder of runs until Ctrl-C.

    Args:
        root: the folder.
        host: the address to bind; one that others can reach takes a token.
        port: the port; 0 for one that is free.
        token: what has to be shown; None for nothing.
        on_open: called with the address of the list when it can be opened.

    Raises:
        InputError: if the folder, the token, the address or the port cannot be used, or a package is not installed.
    """
    stopping = threading.Event()
    app = create_app(root, host, token, stopping.is_set)
    import uvicorn

    class Uvicorn(uvicorn.Server):
        """A server whose open pages hear that it ends."""

        def handle_exit(self, sig: int, frame: Any) -> None:
            stopping.set()
            super().handle_exit(sig, frame)

    listening = _bind(host, port)
    shown = f"[{host}]" if ":" in host else host
    on_open(f"http://{shown}:{listening.getsockname()[1]}/")
    config = uvicorn.Config(
        app, log_level="critical", access_log=False, server_header=False, lifespan="off", timeout_graceful_shutdown=2
    )
    try:
        Uvicorn(config).run(sockets=[listening])
    finally:
        stopping.set()
        listening.close()


def _require_packages() -> None:
    missing = [name for name in ("starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        raise InputError(f"serve: {' and '.join(missing)} cannot be found; pip install 'trimtab[serve]'")


def _bind(host: str, port: int) -> socket.socket:
    """A socket that listens at an address."""
    listening = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
    except OSError as error:
        if listening is not None:
            listening.close()
        cause = error.strerror or error
        raise InputError(f"serve: port {port} of {host!r} cannot be used: {cause}; name another with --port") from error
    return listening


def _keep_judging(catalogue: Catalogue, is_stopping: Callable[[], bool]) -> None:
    """Diagnose the runs that have ended, one by one, so that the list has their verdicts."""
    while not is_stopping():
        if not catalogue.judge_one():
            time.sleep(LOOK_EVERY_SECONDS)


async def _in_thread(work: Callable[..., Any], *arguments: Any) -> Any:
    from starlette.concurrency import run_in_threadpool

    return await run_in_threadpool(work, *arguments)


def _to_bytes(value: Any) -> bytes:
    return json.dumps(to_json(value), separators=(",", ":")).encode()


def _format_event(name: str, value: Mapping[str, Any]) -> str:
    """A server-sent event; JSON has no line break that could end it."""
    return f"event: {name}\ndata: {json.dumps(to_json(value), separators=(',', ':'))}\n\n"


def _give(
    request: Request,
    content: bytes,
    kind: str = "application/json",
    zipped: bytes | None = None,
    caching: str = "no-store",
) -> Response:
    """An answer, compressed where the browser takes that."""
    from starlette.responses import Response

    headers = {"cache-control": caching, "vary": "accept-encoding"}
    if "gzip" in request.headers.get("accept-encoding", "") and len(content) >= LEAST_GZIPPED:
        content = gzip.compress(content, GZIP_LEVEL) if zipped is None else zipped
        headers["content-encoding"] = "gzip"
    return Response(content, headers=headers, media_type=kind)


def _say(status: int, sentence: str) -> Response:
    from starlette.responses import PlainTextResponse

    return PlainTextResponse(f"{sentence}\n", status, {"cache-control": "no-store"})
