"""Stars of an image: where they are, their moments, their PSF."""
