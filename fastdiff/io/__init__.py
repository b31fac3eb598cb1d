"""Files in and out: images, products, WCS, cubes, tables."""
