"""What the project promises, measured: each module has a `run()` that returns one JSON-ready object, and `OPTIONS`."""
