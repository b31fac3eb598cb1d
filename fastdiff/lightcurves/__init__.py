"""Times and magnitudes in; dm-dt images, features and classes out."""
