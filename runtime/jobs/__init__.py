"""Many images or one huge image: resumable, on one machine or a cluster."""
