"""Grafana's dashboards, written in Python: one module each, and what they share.

`make dashboards` writes them into the chart, `make dashboards-preview` draws them without a Grafana.
"""
