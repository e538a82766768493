"""Styles: the record of each uploaded style image, and the store that keeps it."""
