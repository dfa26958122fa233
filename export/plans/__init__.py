"""TensorRT plans: built from the ONNX files of an engine directory, and checked on the GPU that runs them."""
