"""Images in, difference images and tables of candidates out."""
