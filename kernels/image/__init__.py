"""Images: tiles, matching, convolution."""
