"""The method "psf-match"."""
