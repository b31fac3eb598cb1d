"""The method "zogy"."""
