"""A version over HTTP: search, lookup, transform and fold-in for consumers not written in Python (extra ``serve``)."""
