"""Indexes side by side on generated embeddings: `mildnet benchmark-search` where there are no own.

The embeddings have what those of a trained model have, and evenly spread random ones lack: products
near each other in categories, several pictures of each product, and a few directions in which most
of the differences lie.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.report import machine
from trainer.config.console import plain
from trainer.launch.benchmark_search import SearchOptions, compare_file, draw_comparison
from trainer.launch.summary import show_search_speed
from trainer.retrieval.embeddings_file import EmbeddingsFile, write_embeddings

#: Products in a category, and pictures of a product.
PRODUCTS, PICTURES = 60, 5


def catalogue(images: int, dim: int) -> EmbeddingsFile:
    """Return unit embeddings: categories, products in them, pictures of those, in random order."""
    random = np.random.default_rng(0)
    spread = (1 + np.arange(dim, dtype=np.float32)) ** -0.5
    products = -(-images // PICTURES)
    categories = -(-products // PRODUCTS)
    embeddings = np.zeros((images, dim), np.float32)
    labels = random.permutation(np.arange(images) % products)
    for count, size, member in (
        (categories, 1.0, labels % categories),
        (products, 0.6, labels),
        (images, 0.5, np.arange(images)),
    ):
        embeddings += size * random.standard_normal((count, dim), dtype=np.float32)[member]
    embeddings *= spread
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return EmbeddingsFile(embeddings, labels)


def main(argv: list[str]) -> None:
    """Compare the indexes and print the tables; `--plot` draws them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks search", description=__doc__)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--plot")
    options = parser.parse_args(argv)

    console = plain()
    chosen = SearchOptions(queries=options.queries, threads=options.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "embeddings.npz"
        write_embeddings(path, catalogue(options.images, options.dim))
        found = compare_file(path, chosen, tell=console.print)
    print(machine("faiss-cpu", "annoy", "numpy"))
    show_search_speed(found, console)
    if options.plot:
        draw_comparison(found, options.plot)
