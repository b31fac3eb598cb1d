"""Trained networks as files: `load_model` opens one, whatever runs it."""

from .model import Model, list_models, load_model

__all__ = ["Model", "list_models", "load_model"]
