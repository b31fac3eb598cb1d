"""How good a difference image is: detections against a known truth."""
