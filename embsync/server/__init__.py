"""A version over HTTP: search, lookup, transform and fold-in for consumers that are not Python (extra ``serve``)."""
