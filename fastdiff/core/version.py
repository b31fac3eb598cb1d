"""The version that is installed; it stands in pyproject.toml only."""

from __future__ import annotations

import functools

__all__ = ["version"]


@functools.cache
def version() -> str:
    """Version of fastdiff."""
    from importlib import metadata  # slow to import, and seldom needed

    return metadata.version("fastdiff-astro")
