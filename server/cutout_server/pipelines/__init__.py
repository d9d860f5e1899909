"""What a request means: which models run, in which order, on what."""
