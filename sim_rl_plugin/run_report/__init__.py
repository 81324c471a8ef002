"""One page about one or many runs, that needs nothing but itself."""
