"""How good a segmentation is: matching, metrics, a classical baseline, reports, and the commands ``evaluate ...``.

Nothing here but ``prompts`` needs torch. COCO AP needs faster-coco-eval and plots need matplotlib; both are imported
when they are used.
"""
