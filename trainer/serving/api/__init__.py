"""The search service: a catalogue and a model behind an HTTP API. Importing it loads no TensorFlow.

Needs the extra `serve`.
"""

from trainer.serving.api.app import create_app
from trainer.serving.api.options import ServiceOptions

__all__ = ["ServiceOptions", "create_app"]
