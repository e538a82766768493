"""`atelier bench`: how fast it is, on what, and what bounds it."""
