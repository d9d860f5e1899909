"""Devices of other machines: the workers of a Ray cluster, which this server asks as it asks its own devices."""
