"""What both ends of the wire must agree on: mask encodings, drawing, settings' precedence, errors' form, version."""

__version__ = "0.1.0"
