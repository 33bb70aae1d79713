"""Latency histograms out of Triton's request traces: what a p99 over all pods can be computed from."""
