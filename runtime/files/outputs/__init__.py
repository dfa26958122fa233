"""Writers of results in formats of other programs: polygons, OME-TIFF, OME-Zarr, tables."""
