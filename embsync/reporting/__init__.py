"""Reports: figures of a version and of its history, and one self-contained page that shows them."""
