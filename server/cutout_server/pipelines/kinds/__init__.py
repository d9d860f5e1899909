"""The kinds of request, one class each."""
