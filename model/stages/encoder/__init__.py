"""Between search and pooling: what turns the kept behaviors into richer ones. One mechanism a file."""
