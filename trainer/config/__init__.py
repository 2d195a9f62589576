"""Configs and the component registry. Imports nothing heavy."""

from trainer.config.errors import Stopped, UserError
from trainer.config.job import JobConfig
from trainer.config.registry import Component, components, get, nearest, register
from trainer.config.settings import Settings
from trainer.config.train_options import TrainOptions

__all__ = [
    "Component",
    "JobConfig",
    "Settings",
    "Stopped",
    "TrainOptions",
    "UserError",
    "components",
    "get",
    "nearest",
    "register",
]
