"""Cubes of epochs."""
