"""A small recommender that is retrained every night, and what its embeddings do with and without embsync."""
