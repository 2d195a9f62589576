"""The search service as an ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse
from starlette.routing import BaseRoute, Match
from starlette.staticfiles import StaticFiles

import trainer
from trainer.config import UserError
from trainer.serving.api.admission import Admission
from trainer.serving.api.documentation import documentation_routes
from trainer.serving.api.errors import Refusal, busy
from trainer.serving.api.guard import Guard
from trainer.serving.api.observing import Observed, printable
from trainer.serving.api.options import ServiceOptions
from trainer.serving.api.pictures import Decode, decode_plainly
from trainer.serving.api.products import change_routes, product_routes
from trainer.serving.api.searching import search_routes
from trainer.serving.api.service import Embed, Fetch, Service
from trainer.serving.api.states import state_routes
from trainer.serving.api.uploads import first_fault

if TYPE_CHECKING:
    from trainer.serving.live import LiveCatalogue

log = logging.getLogger(__name__)

PAGE = Path(__file__).resolve().parents[1] / "page"


def create_app(
    catalogue: LiveCatalogue,
    embed: Embed,
    options: ServiceOptions | None = None,
    *,
    decode: Decode = decode_plainly,
    fetch: Fetch | None = None,
) -> FastAPI:
    """Return the search service; `app.state.service` is what its routes share.

    Args:
        catalogue: what is searched; whoever made it closes it.
        embed: takes decoded pictures, uint8 (H, W, 3) each, and returns float32 (N, D); called in
            one thread.
        options: what is allowed; by default :class:`ServiceOptions` with its defaults.
        decode: takes some pictures, of each its bytes and a box in pixels as stored (None: all of
            it), and returns uint8 (H, W, 3) for each; called in several threads; by default Pillow,
            in full size.
        fetch: from a URL to what :meth:`trainer.data.fetch.Fetcher.fetch` returns; by default
            nobody searches by URL.
    """
    options = options or ServiceOptions()
    service = Service(catalogue, embed, decode, fetch, options)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.stopping = True
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="mildnet",
        version=trainer.__version__,
        summary="Visual product search: the products that are most like a picture.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    guard = Guard(service)
    for add_routes in (search_routes, product_routes, change_routes, state_routes):
        add_routes(app, service, guard)
    documentation_routes(app)
    app.add_api_route("/", _page, include_in_schema=False)
    app.mount("/page", StaticFiles(directory=PAGE, check_dir=False))
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(UserError, _failed)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(HTTPException, _no_route)
    if options.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(options.cors_origins),
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["X-API-Key", "Authorization"],
            expose_headers=["Retry-After"],
        )
    app.add_middleware(Admission, hosts=options.hosts)
    app.add_middleware(Observed, service=service)
    return app


async def _page() -> FileResponse:
    if not (PAGE / "index.html").is_file():
        raise HTTPException(404)
    return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})


async def _refused(request: Request, error: Any) -> JSONResponse:
    return JSONResponse({"detail": error.detail}, error.status, error.headers)


async def _failed(request: Request, error: Any) -> JSONResponse:
    """Answer where a disk or the server of an index did not do its part."""
    # Its words tell of files and machines that no client should know.
    log.error("%s %s: %s", request.method, printable(request.scope["path"]), error)
    words = "the catalogue cannot be read or changed now: the log of the service tells more"
    return await _refused(request, busy(words, 60))


async def _not_valid(request: Request, error: Any) -> JSONResponse:
    return JSONResponse({"detail": first_fault(error.errors())}, 422)


async def _no_route(request: Request, error: Any) -> JSONResponse:
    """Answer where no route did: 404, 405 and what Starlette itself refuses."""
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(sorted(_methods(request)))
    words = {404: "there is nothing here", 405: "this method is not for this path"}
    detail = words.get(error.status_code, str(error.detail))
    return JSONResponse({"detail": detail}, error.status_code, headers)


def _methods(request: Request) -> set[str]:
    """Return the methods of all routes that the path fits."""
    routes: list[BaseRoute] = request.app.routes
    fits = (route for route in routes if route.matches(request.scope)[0] is not Match.NONE)
    return {method for route in fits for method in getattr(route, "methods", None) or ()}
