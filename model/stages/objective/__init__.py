"""What is trained beside the click. One mechanism a file."""
