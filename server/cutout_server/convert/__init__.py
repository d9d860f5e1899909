"""Protobuf <-> domain types. Here and in `services` alone are message classes known."""
