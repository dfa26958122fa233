"""What cells look like: functions of (scene, rng) that make an image, light from 0 up or stored numbers."""
