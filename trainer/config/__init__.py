"""Configs and the component registry. Imports nothing heavy."""

from trainer.config.errors import UserError
from trainer.config.registry import Component, components, get, nearest, register

__all__ = ["Component", "UserError", "components", "get", "nearest", "register"]
