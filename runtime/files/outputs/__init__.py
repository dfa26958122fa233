"""Results as files of other programs: polygons, OME-TIFF, OME-Zarr, tables."""
