"""Several views of one image: their scale, their tiles and the merging of their cells."""
