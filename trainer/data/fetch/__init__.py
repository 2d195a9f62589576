"""Pictures from servers that may fail in any way. Importing it loads neither urllib3 nor Pillow."""

from trainer.data.fetch.entry import Entry
from trainer.data.fetch.fetcher import Fetcher
from trainer.data.fetch.options import FetchOptions
from trainer.data.fetch.results import FORMATS, REASONS, Failure, Fetched, without_credentials

__all__ = [
    "FORMATS",
    "REASONS",
    "Entry",
    "Failure",
    "FetchOptions",
    "Fetched",
    "Fetcher",
    "without_credentials",
]
