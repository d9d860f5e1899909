"""Model families, one module each, behind the Protocols of `base`. Torch is imported in here and nowhere else."""
