"""Stage 1: which behaviors are kept for a target. One mechanism a file."""
