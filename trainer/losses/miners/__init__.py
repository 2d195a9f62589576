"""Miners: which triplets of a labelled batch a loss over triplets learns from."""
