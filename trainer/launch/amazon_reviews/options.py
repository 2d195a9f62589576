"""What a data set of the Amazon reviews is made of and how; loads neither Beam nor TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from trainer.config import UserError
from trainer.data.fetch import FetchOptions


@dataclass(frozen=True)
class FetchSettings:
    """How a step fetches.

    Attributes:
        options: for every request.
        retry_after: seconds until a later start asks again for what failed and may pass; doubled
            with each start; default 600.
        threads: pictures in flight at once, of a worker; default 8.
        snapshot: pictures after which a worker writes what it has; default 1,000.
    """

    options: FetchOptions = field(default_factory=FetchOptions)
    retry_after: float = 600.0
    threads: int = 8
    snapshot: int = 1000


@dataclass(frozen=True)
class ReviewOptions:
    """What goes in, what is kept, and where it goes.

    Attributes:
        reviews: files of reviews, or patterns, one file a category; local or remote.
        metadata: files of metadata, or patterns.
        model: run folder whose exported model embeds.
        to: folder of the data set.
        thresholds: mean similarities above which user pictures are kept; a table for each.
        least_pictures: of a product, from 1; default 2.
        reduced: pixels of the longer side at which pictures are embedded, from 16; default 256.
        most_malformed: share of a file's lines that may be malformed, 0 to 1; default 0.01.
        fetch: how pictures are fetched.
        beam: options of Beam and of its runners, as on their command line.

    Raises:
        UserError: a value is out of its range.
    """

    reviews: Sequence[str]
    metadata: Sequence[str]
    model: str
    to: str
    thresholds: Sequence[float] = (0.5, 0.6)
    least_pictures: int = 2
    reduced: int = 256
    most_malformed: float = 0.01
    fetch: FetchSettings = field(default_factory=FetchSettings)
    beam: Sequence[str] = ()

    def __post_init__(self) -> None:
        for threshold in self.thresholds:
            if not -1 <= threshold < 1:
                raise UserError(f"--threshold {threshold:g}: cosines are from -1 to below 1")
        if not self.thresholds:
            raise UserError("--threshold: give at least one")
        names = [table_name(threshold) for threshold in sorted(set(self.thresholds))]
        for name, following in pairwise(names):
            if name == following:
                raise UserError(f"--threshold: two are of the same table {name}: give one of them")
        for name, value, least in (
            ("--least-pictures", self.least_pictures, 1),
            ("--reduced", self.reduced, 16),
            ("--snapshot", self.fetch.snapshot, 1),
            ("--threads", self.fetch.threads, 1),
            ("--retry-after", self.fetch.retry_after, 0),
        ):
            if value < least:
                raise UserError(f"{name} {value:g} must be at least {least}")
        if not 0 <= self.most_malformed <= 1:
            raise UserError(f"--most-malformed {self.most_malformed:g} must be from 0 to 1")
        for word in self.beam[:1]:
            if not word.startswith("-"):
                raise UserError(
                    f"{word}: name each file with an option of its own, --reviews {word}, or put "
                    "a pattern such as 'dump/*_5.json.gz' in quotes; Beam's options come behind --"
                )


def table_name(threshold: float) -> str:
    """Return the name of a threshold's table, as the published ones are called.

    >>> table_name(0.6)
    'amazon_review_mean_06_full_images.csv'
    """
    digits = f"{threshold:g}".replace(".", "")
    return f"amazon_review_mean_{digits}_full_images.csv"


def fetch_options(**values: Any) -> FetchOptions:
    """Return options of the requests.

    Raises:
        UserError: a value is out of its range.
    """
    try:
        return FetchOptions(**values)
    except ValueError as error:
        raise UserError(str(error)) from None
