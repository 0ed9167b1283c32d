"""The method on arrays in memory, without a store or daemon."""
