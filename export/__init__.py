"""Export of a PyTorch checkpoint to an engine directory: ONNX graphs, verification, manifest."""
