"""The whole model as one ONNX file, from an image to its labels, and as a package for bioimage.io."""
