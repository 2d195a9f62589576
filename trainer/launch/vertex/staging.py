"""The bucket of remote jobs: what is put there, and what is there already."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from trainer.config import UserError
from trainer.launch.vertex import calls
from trainer.launch.vertex.calls import CloudService

STORAGE = CloudService("Cloud Storage", "storage.googleapis.com", "roles/storage.objectAdmin")


@dataclass(frozen=True)
class Staged:
    """A file for the bucket.

    Attributes:
        uri: `gs://...` where it goes.
        content: its bytes.
    """

    uri: str
    content: bytes


class Bucket:
    """The folder of a bucket that jobs are made below.

    Args:
        place: `gs://bucket` or `gs://bucket/folder`.
        project: of the jobs, for errors.
        client: of google-cloud-storage; default: one with the credentials of this machine, or,
            where STORAGE_EMULATOR_HOST names another server, that one without any.

    Raises:
        UserError: google-cloud-storage is not installed, or there are no credentials.
    """

    def __init__(self, place: str, project: str, client: Any = None) -> None:
        self.place, self.project = place, project
        self.name, _, self.folder = place.removeprefix("gs://").partition("/")
        self.client = client or _client(project)

    def runs(self, prefix: str) -> list[str]:
        """Return the names of the folders in it that begin with a prefix.

        Raises:
            UserError: there is no such bucket, or it may not be read.
        """
        below = f"{self.folder}/" if self.folder else ""
        with self._explained():
            listed = self.client.list_blobs(
                self.name, prefix=f"{below}{prefix}", delimiter="/", timeout=60
            )
            for _ in listed:
                pass
            return sorted(found.removeprefix(below).rstrip("/") for found in listed.prefixes)

    def exists(self, uri: str) -> bool:
        """Return whether there is a file."""
        with self._explained():
            return self._blob(uri).exists(timeout=60)

    def put(self, files: Sequence[Staged]) -> list[str]:
        """Upload files, but for those that are there with the same bytes, and return where.

        Raises:
            UserError: the bucket does not take them.
        """
        written = []
        for file in files:
            with self._explained():
                blob = self._blob(file.uri)
                if self._has(blob, file.content):
                    continue
                # The service compares the checksum, and keeps nothing that arrived otherwise.
                blob.upload_from_string(file.content, checksum="crc32c", timeout=300)
                written.append(file.uri)
        return written

    def _has(self, blob: Any, content: bytes) -> bool:
        import google_crc32c

        if not blob.exists(timeout=60):
            return False
        blob.reload(timeout=60)
        checksum = base64.b64encode(google_crc32c.Checksum(content).digest()).decode()
        return (blob.size, blob.crc32c) == (len(content), checksum)

    def _blob(self, uri: str) -> Any:
        bucket, _, name = uri.removeprefix("gs://").partition("/")
        return self.client.bucket(bucket).blob(name)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        import requests
        from google.api_core.exceptions import GoogleAPIError, NotFound
        from google.auth.exceptions import GoogleAuthError

        try:
            yield
        except NotFound:
            raise UserError(
                f"there is no bucket {self.name}, or these credentials may not see it: check "
                f"MILDNET_BUCKET, or make it with `gcloud storage buckets create gs://{self.name}`"
            ) from None
        except (GoogleAPIError, GoogleAuthError) as error:
            raise calls.explained(error, STORAGE, self.project) from error
        except requests.exceptions.RequestException as error:
            raise UserError(
                f"Cloud Storage does not answer ({type(error).__name__}): check the network, and "
                "try again"
            ) from error


def _client(project: str) -> Any:
    try:
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage
    except ImportError:
        raise UserError(
            'a job on Vertex AI needs google-cloud-storage: pip install "mildnet[vertex]"'
        ) from None
    if os.environ.get("STORAGE_EMULATOR_HOST"):
        return storage.Client(project=project, credentials=AnonymousCredentials())
    return storage.Client(project=project, credentials=calls.default_credentials())
