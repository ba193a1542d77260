"""Benchmarks side by side with other libraries, which `kernels` may not import: the rivals, the grid, the report."""
