"""Data sets as tables of items, and their way into batches. Importing it loads no TensorFlow."""

from trainer.data.table import ItemTable

__all__ = ["ItemTable"]
