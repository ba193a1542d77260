"""Stage 2: from the kept behaviors to the interest. One mechanism a file."""
