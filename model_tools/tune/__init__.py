"""Batching, instances and threads for an objective, found by measuring few of all combinations."""
