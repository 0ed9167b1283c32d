"""What is new in the watched directory, whether it is finished, and what is next."""
