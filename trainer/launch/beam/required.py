"""Whether Apache Beam is installed."""

from __future__ import annotations

import logging

from trainer.config import UserError


def require_beam(command: str) -> None:
    """Import Beam, without its note on Google's packages.

    Args:
        command: what needs it, for the message.

    Raises:
        UserError: the extra is not installed.
    """

    def says_something(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("apitools not found")

    root = logging.getLogger()
    root.addFilter(says_something)
    try:
        import apache_beam  # noqa: F401
        import pyarrow  # noqa: F401
        import urllib3  # noqa: F401
    except ImportError as error:
        raise UserError(f'{command} needs {error.name}: pip install "mildnet[beam]"') from None
    finally:
        root.removeFilter(says_something)
