"""Hostile input: Triton behind the chart's proxy, and a grammar of what it should never be sent."""
