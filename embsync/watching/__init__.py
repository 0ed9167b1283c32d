"""The watched directory: which snapshots are new, which are complete, and which comes next."""
