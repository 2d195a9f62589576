"""Which rows of the table go into which batch. Importing it loads no TensorFlow."""

from trainer.data.samplers.plan import Sampler

__all__ = ["Sampler"]
