"""A fleet's releases: what would change, one region's upgrade after another, and how all of them are."""
