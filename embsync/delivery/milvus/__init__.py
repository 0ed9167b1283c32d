"""Delivery to Milvus: one collection a version, with items and users as partitions, and one alias."""
