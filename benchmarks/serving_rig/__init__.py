"""A model server with the demo's ranker, a filled online store and callers in a process of their own."""
