"""Evaluation of segmentations: matching, metrics, a classical baseline and reports.

Only ``prompts`` needs torch. COCO AP needs faster-coco-eval and plots need matplotlib; both are imported on first use.
"""
