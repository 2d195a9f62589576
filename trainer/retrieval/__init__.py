"""Catalogue embeddings, exact metrics, nearest-neighbour indexes, result pictures."""
