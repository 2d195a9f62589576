"""Step 5: the pictures that are kept, at full size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
from apache_beam.io.filesystems import FileSystems

from trainer.data.fetch import Failure, Fetcher
from trainer.launch.amazon_reviews.comparing import scores
from trainer.launch.amazon_reviews.fetching import WorkOnBatches
from trainer.launch.amazon_reviews.options import FetchSettings
from trainer.launch.amazon_reviews.outcomes import Snapshots
from trainer.launch.beam import places
from trainer.launch.in_flight import in_flight

#: A picture, `path` being relative to the folder of the data set.
DOWNLOADED = pa.schema(
    [
        ("url", pa.string()),
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("width", pa.int64()),
        ("height", pa.int64()),
    ]
)

#: Folder of the pictures below that of the data set.
IMAGES = "images"


def wanted(product: dict[str, Any], threshold: float) -> Iterator[tuple[str, str]]:
    """Yield the pictures of a row of `COMPARED` that pass the threshold."""
    for url, _, score in scores(product):
        if score > threshold:
            yield url, ""


class DownloadPictures(WorkOnBatches):
    """Batch of rows of `Pending` -> picture files, and snapshots of :data:`DOWNLOADED`.

    Args:
        snapshots: where rows go.
        settings: how to fetch.
        folder: of the data set.
    """

    def __init__(
        self, step: str, snapshots: Snapshots, settings: FetchSettings, folder: str
    ) -> None:
        super().__init__(step, snapshots, DOWNLOADED, settings)
        self._folder = folder

    def outcomes(
        self, batch: list[dict[str, Any]], fetcher: Fetcher, pool: ThreadPoolExecutor
    ) -> Iterator[tuple[dict[str, Any], dict[str, Any] | Failure]]:
        def download(work: dict[str, Any]) -> dict[str, Any] | Failure:
            found = fetcher.fetch(work["url"])
            if isinstance(found, Failure):
                return found
            path = picture_path(work["url"], found.suffix)
            with places.whole(FileSystems.join(self._folder, *path.split("/"))) as stream:
                stream.write(found.content)
            return {
                "url": work["url"],
                "path": path,
                "sha256": found.sha256,
                "width": found.width,
                "height": found.height,
            }

        return in_flight(pool, download, batch, 2 * self._settings.threads)


def picture_path(url: str, suffix: str) -> str:
    """Return where a picture goes below the folder of the data set, spread over 256 folders."""
    name = hashlib.sha256(url.encode()).hexdigest()[:32]
    return f"{IMAGES}/{name[:2]}/{name}{suffix}"
