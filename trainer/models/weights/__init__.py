"""Weights from elsewhere: files of other libraries, read safely and given to our layers.

:func:`trainer.models.weights.swinv2.load_swinv2` can be imported from here; Keras is loaded only
then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.models.weights.swinv2 import load_swinv2

__all__ = ["load_swinv2"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from trainer.models.weights import swinv2

        return getattr(swinv2, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
