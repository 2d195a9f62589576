"""Exported models: written as a SavedModel, loaded again to embed pictures."""
