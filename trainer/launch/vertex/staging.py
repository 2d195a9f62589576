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
        return self._list("", prefix)[1]

    def configs(self, prefix: str) -> list[str]:
        """Return the names of the jobs that begin with a prefix, by their staged configs.

        Raises:
            UserError: there is no such bucket, or it may not be read.
        """
        return [name.removesuffix(".cnf") for name in self._list("configs/", prefix)[0]]

    def exists(self, uri: str) -> bool:
        """Return whether there is a file."""
        with self._explained():
            return self._blob(uri).exists(timeout=60)

    def read(self, uri: str) -> str:
        """Return the text of a file.

        Raises:
            UserError: it can't be read.
            ValueError: it is not UTF-8.
        """
        with self._explained():
            content = self._blob(uri).download_as_bytes(timeout=60)
        return str(content, "utf-8")

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
                self._upload(blob, file.content)
                written.append(file.uri)
        return written

    def claim(self, file: Staged) -> bool:
        """Upload a file if there is none of its name, and return whether there was none.

        Of several that do so at the same moment, it is one's alone.

        Raises:
            UserError: the bucket does not take it.
        """
        from google.api_core.exceptions import PreconditionFailed

        with self._explained():
            try:
                self._upload(self._blob(file.uri), file.content, if_generation_match=0)
            except PreconditionFailed:
                return False
        return True

    def _list(self, folder: str, prefix: str) -> tuple[list[str], list[str]]:
        """Return the names of files and of folders in a folder that begin with a prefix."""
        below = f"{self.folder}/{folder}" if self.folder else folder
        with self._explained():
            listed = self.client.list_blobs(
                self.name, prefix=f"{below}{prefix}", delimiter="/", timeout=60
            )
            files = [blob.name.removeprefix(below) for blob in listed]
            return files, sorted(name.removeprefix(below).rstrip("/") for name in listed.prefixes)

    @staticmethod
    def _upload(blob: Any, content: bytes, **conditions: int) -> None:
        # The service compares the checksum, and keeps nothing that arrived otherwise.
        blob.upload_from_string(content, checksum="crc32c", timeout=300, **conditions)

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
