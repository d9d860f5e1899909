"""The REST gateway, made from the contracts."""
