"""The method "transinet"."""
