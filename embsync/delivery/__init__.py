"""Delivery of versions to where they are served: object stores, databases, other hosts."""
