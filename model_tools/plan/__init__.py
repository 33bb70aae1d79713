"""Capacity planning: how many GPU nodes each region needs for its traffic, within the objectives."""
