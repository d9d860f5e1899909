"""What the benchmarks share: rounds, subjects under test, loops and servers in processes of their own, reports."""
