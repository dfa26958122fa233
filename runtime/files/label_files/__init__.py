"""Readers of label files of other programs: label images, polygons, ROIs, COCO, DeepCell Label."""
