"""Several views of one image: scale, tiles, and merging what they show."""
