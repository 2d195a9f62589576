"""`mildnet serve`: a run's model and index behind an HTTP API."""

from __future__ import annotations

import contextlib
import gc
import ipaddress
import logging
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.config import UserError
from trainer.config.console import plain
from trainer.data.fetch import Fetcher, FetchOptions
from trainer.data.files import is_remote, reason
from trainer.launch.run_folder import RunFolder, local_copy

if TYPE_CHECKING:
    from trainer.serving.api import ServiceOptions

log = logging.getLogger(__name__)

#: Of the environment: one key, for those who keep no file.
KEY, WRITE_KEY = "MILDNET_API_KEY", "MILDNET_WRITE_KEY"
#: Characters that nobody guesses in a lifetime, if they are drawn at random.
LEAST_KEY = 16
#: Names of this machine for itself.
LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Endpoint:
    """Where and how long a service runs.

    Attributes:
        host: name or address of this machine.
        port: 0 for a free one.
        proxies: addresses of proxies, comma separated, whose X-Forwarded-For is believed.
        drain: seconds to go on after a signal to stop.
        stop_within: most seconds for requests in flight.

    Raises:
        UserError: something else than addresses in `proxies`.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    proxies: str = ""
    drain: float = 0.0
    stop_within: int = 30

    def __post_init__(self) -> None:
        for proxy in filter(None, self.proxies.split(",")):
            try:
                ipaddress.ip_network(proxy.strip(), strict=False)
            except ValueError:
                raise UserError(
                    f"--proxy {proxy.strip()}: must be addresses or networks, comma separated, such"
                    " as 127.0.0.1,10.0.0.0/8"
                ) from None


def service_options(**values: object) -> ServiceOptions:
    """Return the options of a service.

    Raises:
        UserError: the extra is missing, or a value is out of its range.
    """
    try:
        from trainer.serving.api import ServiceOptions
        from trainer.serving.api.access import Rates
    except ImportError as error:
        raise UserError(f'mildnet serve needs {error.name}: pip install "mildnet[serve]"') from None
    try:
        options = ServiceOptions(**values)  # type: ignore[arg-type]
    except ValueError as error:
        raise UserError(str(error)) from None
    Rates(options.rate)
    return options


def read_keys(file: str | None, variable: str) -> tuple[str, ...]:
    """Return the API keys of a file, one a line, and of the environment.

    Args:
        file: may have empty lines and lines that begin with `#`.
        variable: of the environment.

    Raises:
        UserError: the file cannot be read or holds no key, or a key is short or no plain text.
    """
    keys = [os.environ[variable].strip()] if os.environ.get(variable, "").strip() else []
    if file is not None:
        try:
            lines = Path(file).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise UserError(f"{file}: {reason(error)}") from None
        except UnicodeDecodeError:
            raise UserError(f"{file}: not a text file with one API key a line") from None
        found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not found:
            raise UserError(f"{file}: holds no API key; one a line")
        keys += found
    for number, key in enumerate(keys, start=1):
        if len(key) < LEAST_KEY or not key.isascii() or not key.isprintable() or " " in key:
            raise UserError(
                f"API key {number} of {file or variable}: must be at least {LEAST_KEY} letters and"
                " digits, such as `openssl rand -hex 24` makes"
            )
    return tuple(keys)


def serve(
    run: RunFolder,
    endpoint: Endpoint,
    options: ServiceOptions,
    *,
    index_folder: str | None = None,
    model_folder: str | None = None,
    changes: str | None = None,
) -> None:
    """Serve searches until the process is told to stop.

    Args:
        run: a finished run; what is remote of it is copied to a temporary folder.
        endpoint: where.
        options: what is allowed.
        index_folder: index to search; default: the run's own.
        model_folder: export of the run's model that the index was built with; default: the run's
            own.
        changes: file for products that are added and removed; default: beside the index.

    Raises:
        UserError: the port is in use, no model or index, an index of another model, an option
            that makes no sense.
    """
    from trainer.serving.api import create_app
    from trainer.serving.api.server import address_of, bind
    from trainer.serving.api.server import run as run_app
    from trainer.serving.live import LiveCatalogue

    log_to_stderr()
    index_folder = index_folder or run.file("index")
    if options.writable and changes is None and is_remote(index_folder):
        raise UserError(
            f"{index_folder} is not on this machine: products that come and go need a file here, "
            "--changes FILE"
        )
    with contextlib.ExitStack() as stack:
        # What takes no time is tried before what does.
        bound = stack.enter_context(bind(endpoint.host, endpoint.port))
        fetches = stack.enter_context(fetcher(options)) if options.url_hosts else None
        if _is_local(bound):
            # Pages from elsewhere reach this machine through the browser: see Admission.
            names = (*LOCAL, endpoint.host, bound.getsockname()[0], *options.hosts)
            options = replace(options, hosts=names)
        elif not options.keys:
            log.warning("everybody who reaches this machine may search: there is no API key")
        if options.writable and not (options.keys or options.write_keys):
            log.warning("everybody who may search may change the catalogue: there is no API key")
        from trainer.serving.api.model import Model

        stack.enter_context(one_thread_a_search())
        exported = stack.enter_context(local_copy(model_folder or run.file("model")))
        model = Model(exported, options.batch)
        index = stack.enter_context(local_copy(index_folder))
        catalogue = LiveCatalogue(index, changes=changes, writable=options.writable)
        stack.callback(catalogue.close)
        catalogue.check_model(model.embedder)
        app = create_app(
            catalogue,
            model.embed,
            options,
            decode=model.decode,
            fetch=None if fetches is None else fetches.fetch,
        )
        # What is there by now stays, above all TensorFlow's hundreds of thousands of objects: the
        # collector would look through them again and again while somebody waits.
        gc.collect()
        gc.freeze()
        stack.callback(gc.unfreeze)
        run_app(
            app,
            bound,
            started=lambda: plain().print(
                f"serving {len(catalogue):,} products at {address_of(bound)}", soft_wrap=True
            ),
            drain=endpoint.drain,
            stop_within=endpoint.stop_within,
            proxies=endpoint.proxies,
        )


def fetcher(options: ServiceOptions) -> Fetcher:
    """Return what fetches a picture that somebody waits for: one try, from allowed hosts only."""
    return Fetcher(
        FetchOptions(
            timeout=5.0,
            deadline=min(15.0, options.deadline),
            attempts=1,
            host_rest=10.0,
            redirects=3,
            most_bytes=options.most_bytes,
            most_pixels=options.most_pixels,
            least_side=1,
            allow_hosts=options.url_hosts,
        )
    )


@contextlib.contextmanager
def one_thread_a_search() -> Iterator[None]:
    """Let FAISS, which has not been loaded yet, search with one thread, unless told otherwise.

    Its threads wait for each other by spinning, and so take the processors from those of TensorFlow
    that they wait for: on busy ones a search with two threads takes several times as long as with
    one. The variable it is, as FAISS's own function counts for the thread alone that calls it.
    """
    name = "OMP_NUM_THREADS"
    if name in os.environ:
        yield
        return
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name, None)


def _is_local(bound: socket.socket) -> bool:
    return ipaddress.ip_address(bound.getsockname()[0].split("%")[0]).is_loopback


def log_to_stderr() -> None:
    """Write what a service logs to standard error, a line each, with the time."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%dT%H:%M:%S%z"))
    for name in ("trainer", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
    logging.getLogger("trainer").setLevel(logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
