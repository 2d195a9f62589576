"""What Prometheus reads of a service."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"})
#: Label of whatever is not among the known ones, which keeps the number of series bounded.
OTHER = "other"


class Metrics:
    """Counts and times of one service, in a registry of its own.

    Args:
        products: gives the size of the catalogue.
        waiting: gives how many pictures wait for a decoder or the model.
    """

    def __init__(self, products: Callable[[], float], waiting: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            *("mildnet_requests", "Requests that were answered."),
            ("route", "method", "status"),
            registry=self.registry,
        )
        self.seconds = self._times("mildnet_request_seconds", "From request to answer.", ("route",))
        self.in_flight = Gauge(
            "mildnet_requests_in_flight", "Requests that are worked on.", registry=self.registry
        )
        self.batches = Histogram(
            *("mildnet_batch_pictures", "Pictures that went through the model at once."),
            buckets=BATCHES,
            registry=self.registry,
        )
        self.model = self._times("mildnet_model_seconds", "Of a batch in the model.")
        self.decoding = self._times("mildnet_decode_seconds", "Of some pictures in a decoder.")
        self.search = self._times("mildnet_search_seconds", "Of a batch of queries in the index.")
        self.changes = Counter(
            *("mildnet_changes", "Products added, replaced and removed."),
            ("change",),
            registry=self.registry,
        )
        for name, text, value in (
            ("mildnet_products", "Products in the catalogue.", products),
            ("mildnet_pictures_waiting", "Pictures that wait for a decoder or the model.", waiting),
        ):
            Gauge(name, text, registry=self.registry).set_function(value)

    def _times(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Histogram:
        return Histogram(name, text, labels, buckets=SECONDS, registry=self.registry)

    def answered(self, route: str | None, method: str, status: int, seconds: float) -> None:
        """Count a request; `route` is its pattern, None where it has none."""
        name = route or OTHER
        known = method if method in METHODS else OTHER
        self.requests.labels(name, known, str(status)).inc()
        self.seconds.labels(name).observe(seconds)

    def text(self) -> bytes:
        """Return all there is, as Prometheus reads it."""
        return generate_latest(self.registry)
