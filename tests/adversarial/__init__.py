"""Attacks, each beside a good caller who must not feel them."""
