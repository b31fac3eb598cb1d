"""Small dense systems of equations."""
