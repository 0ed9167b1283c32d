"""Delivery to Milvus: one collection per version, with items and users as partitions, and one alias."""
