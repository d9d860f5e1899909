"""One servicer for each service of the contract: decode, call, encode."""
