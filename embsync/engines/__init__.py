"""Where the method's sums are formed and its maps applied: here, or where the rows are."""
