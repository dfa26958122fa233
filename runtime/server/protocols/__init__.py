"""Published protocols on the same server: Open Inference Protocol and samapi."""
