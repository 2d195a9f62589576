"""Makers of `items` data sets from public sources."""
