"""A Milvus to talk to: one elsewhere by its address, or Milvus Lite over a folder of one's own."""

from __future__ import annotations

import contextlib
import logging
import logging.config
import os
import shutil
import tempfile
import threading
import weakref
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from trainer.config import UserError

log = logging.getLogger(__name__)

#: Environment variable with what a Milvus may ask for: `user:password` or an API key.
VARIABLE = "MILVUS_TOKEN"
#: Codes of Milvus's errors: of `merr` in its own source.
NO_COLLECTION, NO_DATABASE, NOT_AUTHENTICATED = 100, 800, 1800
#: Seconds that Milvus Lite may take: it indexes within a call, for as long as the processor needs.
DAY = 86_400.0
#: Its server ends a connection that it is pinged by during a long call, as pymilvus does all ten
#: seconds by default; the call is then made anew, and fails for what it has done already.
NO_PINGS = {"grpc.keepalive_time_ms": 2**31 - 1}
#: Endings of files that Milvus Lite writes once, and removes but never changes.
UNCHANGING = (".parquet", ".idx")
#: Of what a stopped Milvus Lite leaves in its folder, what the next start does not need.
NEEDLESS = ("LOCK", "manifest.json.prev")

_IMPORTING = threading.Lock()


def client_package() -> Any:
    """Return pymilvus, once it is there and quiet.

    Raises:
        UserError: it is not installed.
    """
    with _IMPORTING:  # else one of two threads would take the other's stand-in for the original
        configure = logging.config.dictConfig
        # On its import pymilvus configures all logging, which closes the handlers that are there,
        # and with them the streams of some:
        # https://docs.python.org/3/library/logging.config.html
        logging.config.dictConfig = lambda config: None
        try:
            import milvus_lite  # noqa: F401
            import pymilvus
        except ImportError:
            raise UserError("this index needs Milvus: pip install 'mildnet[milvus]'") from None
        finally:
            logging.config.dictConfig = configure
    # Both print the traceback of each error that they raise or answer; it is told once, by us.
    for name in ("pymilvus", "milvus_lite.adapter"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return pymilvus


class Server(ABC):
    """A Milvus, connected to when it is first needed; calls may come from several threads.

    Args:
        timeout: seconds that an answer may take.
    """

    #: What messages call it.
    name: str

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._lock = threading.RLock()
        self._held: dict[str, Any] = {}

    def call(self, method: str, *arguments: Any, wait: float | None = None, **options: Any) -> Any:
        """Return what a method of pymilvus's client returns.

        Args:
            method: its name.
            *arguments: its arguments.
            wait: seconds that it may take, if others than the server's.
            **options: its keyword arguments.

        Raises:
            UserError: Milvus cannot be reached, refuses, or fails.
        """
        import grpc

        pymilvus = client_package()
        options["timeout"] = wait or self.timeout
        try:
            return getattr(self._client(), method)(*arguments, **options)
        except (pymilvus.MilvusException, grpc.RpcError, grpc.FutureTimeoutError) as error:
            raise self._told(error) from None

    def has(self, collection: str) -> bool:
        """Return whether there is a collection, or an alias, of this name."""
        return bool(self.call("has_collection", collection))

    def close(self) -> None:
        """End the connection; the next call connects anew."""
        with self._lock:
            _leave(self._held)

    @abstractmethod
    def _connect(self, held: dict[str, Any]) -> None:
        """Put a `client` into `held`, and what else has to be ended with it."""

    def _client(self) -> Any:
        with self._lock:
            if "client" not in self._held:
                self._connect(self._held)
            return self._held["client"]

    def _told(self, error: Exception) -> UserError:
        """Return what to tell of an error of pymilvus or gRPC."""
        code = getattr(error, "code", None)
        text = str(getattr(error, "message", "") or error)
        # What connecting fails of is in gRPC's error behind pymilvus's own.
        words = f"{text} {error.__cause__}".lower()
        if code == NO_COLLECTION or "can't find collection" in words:
            return UserError(
                f"{self.name} has not the collection of this index any more: build the index again"
            )
        if code == NO_DATABASE or ("database" in words and "does not exist" in words):
            return UserError(f"{self.name} has no such database: create it, or choose another")
        if code == NOT_AUTHENTICATED or "unauthenticated" in words or "auth check" in words:
            return UserError(
                f"{self.name} refuses the token: put user:password or an API key into {VARIABLE}"
            )
        if any(sign in words for sign in ("fail connecting", "unavailable", "deadline", "timeout")):
            return UserError(
                f"{self.name} does not answer within {self.timeout:g} seconds: is it running, and "
                "is this its address? index.timeout lets it take longer"
            )
        return UserError(f"{self.name} could not do it: {text.splitlines()[0] if text else error}")


class Remote(Server):
    """A Milvus elsewhere, standalone or a cluster.

    Args:
        uri: such as `http://host:19530`.
        database: its database; empty for the default one.
        timeout: seconds that an answer may take.
    """

    def __init__(self, uri: str, database: str, timeout: float) -> None:
        super().__init__(timeout)
        self.uri, self.database = uri, database
        self.name = f"Milvus at {uri}"
        weakref.finalize(self, _leave, self._held)

    def _connect(self, held: dict[str, Any]) -> None:
        held["client"] = client_package().MilvusClient(
            uri=self.uri,
            db_name=self.database,
            token=os.environ.get(VARIABLE, ""),
            timeout=self.timeout,
            # Connections of other users of the same address may be closed by them.
            dedicated=True,
        )


class Lite(Server):
    """Milvus Lite in this process, over a folder of its own that goes when this object goes.

    It listens on a port of 127.0.0.1 that the system chooses.

    Args:
        beside: a folder whose files are going to be used; on its disk they need not be copied.
    """

    name = "Milvus Lite"

    def __init__(self, beside: Path | None = None) -> None:
        super().__init__(DAY)
        self.folder = _folder_near(beside)
        # Leaves nothing when the object is dropped and when the interpreter ends.
        weakref.finalize(self, _remove, self._held, self.folder, os.getpid())

    @property
    def data(self) -> Path:
        """The folder of the database."""
        return self.folder / "milvus.db"

    def _connect(self, held: dict[str, Any]) -> None:
        client_package()
        from milvus_lite.adapter.grpc.server import start_server_in_thread

        server, database, port = start_server_in_thread(str(self.data))
        held.update(server=server, database=database)
        held["client"] = client_package().MilvusClient(
            uri=f"http://127.0.0.1:{port}", dedicated=True, grpc_options=NO_PINGS
        )
        for name in held["client"].list_collections():
            held["client"].load_collection(name, timeout=self.timeout)

    def files(self) -> list[str]:
        """Return the paths, below `data`, of what has to be kept; call it when it is closed."""
        found = (path.relative_to(self.data) for path in self.data.rglob("*"))
        return sorted(
            path.as_posix()
            for path in found
            if (self.data / path).is_file() and path.name not in NEEDLESS
        )


def place(source: Path, target: Path) -> None:
    """Put a file of Milvus Lite somewhere else too, without a copy where none is needed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix in UNCHANGING:
        with contextlib.suppress(OSError):  # another disk, or one that knows no links
            target.hardlink_to(source)
            return
    shutil.copyfile(source, target)


def _folder_near(beside: Path | None) -> Path:
    """Return a new folder for temporary files, on the disk of `beside` if that can be."""
    if beside is not None and beside.stat().st_dev != os.stat(tempfile.gettempdir()).st_dev:
        with contextlib.suppress(OSError):  # may be read only
            return Path(tempfile.mkdtemp(prefix=f".{beside.name}-milvus-", dir=beside.parent))
    return Path(tempfile.mkdtemp(prefix="mildnet-milvus-"))


def _leave(held: dict[str, Any]) -> None:
    """End a connection, and the server if it is one of this process."""
    open_, called = dict(held), {"client": "close", "server": "stop", "database": "close"}
    held.clear()
    for name, method in called.items():
        if name in open_:
            try:
                getattr(open_[name], method)(*((0,) if name == "server" else ()))
            except Exception as error:  # at the interpreter's end its threads may be gone
                log.debug("ending Milvus: %s", error)


def _remove(held: dict[str, Any], folder: Path, process: int) -> None:
    """End Milvus Lite and remove its folder, in the process that made it."""
    if os.getpid() == process:
        _leave(held)
        shutil.rmtree(folder, ignore_errors=True)
