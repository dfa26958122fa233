"""Spatial omics: cells in SpatialData objects, and the model as a method of sopa, Harpy and LazySlide."""
