"""The model of a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.launch.beam import places

if TYPE_CHECKING:
    from trainer.serving.embedder import Embedder


def load_embedder(model: str) -> Embedder:
    """Return the exported model of a folder, local or remote."""
    from trainer.serving.embedder import Embedder

    with places.local_folder(model) as folder:
        return Embedder(folder)
