"""tilesim."""
