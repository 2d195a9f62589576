"""Whole jobs: picking a config, and running it. Imports nothing heavy."""
