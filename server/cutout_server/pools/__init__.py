"""Device pools: one worker for each device, with its models, its queue and its embeddings cache."""
