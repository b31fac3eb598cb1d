"""From files to products: pure functions that the command line calls."""
