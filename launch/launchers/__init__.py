"""One file for each way to start a run's stages on machines."""
