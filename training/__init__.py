"""CellSAM in PyTorch: the model, its checkpoints, its training and evaluation."""
