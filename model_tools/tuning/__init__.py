"""Measuring one setting of a server against another on a machine that is never quiet."""
