"""Matching the PSF of one image to that of another: what psf-match and zogy share."""
