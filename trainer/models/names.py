"""Numbers in the names of layers that nobody named."""

from __future__ import annotations

from keras.src.utils import naming


def restart_numbers() -> None:
    """Let Keras number layers without a name from the beginning, as in a process of its own.

    Checkpoints and `.keras` files know weights by these names, so they must not depend on what else
    the process has built. Keras' public way, `clear_session`, would also reset the number format.
    """
    naming.reset_uids()
