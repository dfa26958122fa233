"""Serving through NVIDIA's Triton Inference Server: a model repository, and the Python model in it.

The networks are ONNX models of their own. The Python model runs everything between them with the code of this package.
"""
