"""Addresses of servers in a config, which is written to disk as it is."""

from __future__ import annotations

from urllib.parse import urlsplit


def check_address(text: str, variable: str) -> None:
    """Refuse an address that is none, or that holds what must not be written to disk.

    Args:
        text: such as `http://host:19530`; empty for none.
        variable: environment variable that a password or token goes into.

    Raises:
        ValueError: it is refused; the message has nothing of an address that may hold a secret.
    """
    if not text:
        return
    if set("@?#") & set(text):
        raise ValueError(
            "this address holds a user, password or token, which would be written to disk: put it "
            f"into the environment, {variable}=user:password"
        )
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https", "tcp") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, or too large; half an IPv6 address
        good = False
    if not good:
        raise ValueError(f"{text!r} is not an address such as http://host:19530")
