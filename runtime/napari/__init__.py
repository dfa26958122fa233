"""Plugin for napari: reader of results, sample images, widgets to segment and correct, and writer of projects.

``napari.yaml`` lists what napari finds; napari imports a module when it is first used. Only the widgets need Qt.

Source: napari/npe2 ``npe2/manifest/schema.py`` and ``npe2/manifest/contributions``, for the manifest.
"""
