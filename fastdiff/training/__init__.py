"""Training of the networks that fastdiff ships; needs the ``train`` extra (PyTorch)."""
