"""Engines: a model compiled for one device by one runtime, and the cache that pods share them in."""
