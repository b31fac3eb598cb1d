"""What is wrong with a frame and nobody said: missing pixels, saturation, shifts, cosmic rays."""
