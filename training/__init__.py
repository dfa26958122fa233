"""CellSAM in PyTorch: the model, its checkpoints, and how it is trained."""
