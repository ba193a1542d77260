"""Benchmarks of the operations: correctness first, then side by side in one process."""
