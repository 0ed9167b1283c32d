"""Delivery to PostgreSQL with pgvector: tables partitioned by version, one pointer row, search as a function."""
