"""From difference images to tables of candidates."""
