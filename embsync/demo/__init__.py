"""A small recommender that is retrained every night, with and without embsync."""
