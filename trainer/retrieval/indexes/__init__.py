"""Nearest-neighbour indexes behind one interface; each is a component of kind `index`."""

from trainer.retrieval.indexes.base import Index, load_index

__all__ = ["Index", "load_index"]
