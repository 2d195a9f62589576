"""Routes that tell how the service is, for those who run it."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.responses import PlainTextResponse, Response

from trainer.serving.api.answers import State
from trainer.serving.api.errors import busy, problems
from trainer.serving.api.guard import Guard
from trainer.serving.api.metrics import CONTENT_TYPE
from trainer.serving.api.service import Service


def state_routes(app: FastAPI, service: Service, guard: Guard) -> None:
    """Add the routes for probes and for Prometheus."""
    tags: Any = ["state"]

    @app.get("/health", tags=tags, summary="Whether the process lives", response_model=State)
    async def health() -> Any:
        """Answers as long as the process does."""
        return State(status="alive")

    @app.get(
        "/ready",
        tags=tags,
        summary="Whether requests may be sent",
        response_model=State,
        responses=problems(503),
    )
    async def ready() -> Any:
        """Answers 200 from when the model is warmed up until the service is told to stop."""
        if service.stopping:
            raise busy("the service is stopping")
        return State(status="ready")

    @app.get(
        "/metrics",
        tags=tags,
        summary="Counts and times, for Prometheus",
        response_class=PlainTextResponse,
        response_model=None,
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
            **problems(*guard.refusals()),
        },
        dependencies=guard.look(),
    )
    async def metrics() -> Any:
        """Requests, latencies, batches, times of model and index, size of the catalogue."""
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})
