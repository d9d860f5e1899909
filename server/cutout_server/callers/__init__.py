"""Who calls, and how much of the server each of them may use."""
