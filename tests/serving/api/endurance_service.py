"""A service in a process of its own: colour histograms as embeddings, products in a folder."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np

from tests.serving.api.catalogue import COLOURS, embed, picture
from trainer.config import get
from trainer.data.open_image import open_image
from trainer.serving.api import ServiceOptions, create_app
from trainer.serving.api.server import address_of, bind, run
from trainer.serving.catalogue import CatalogueIndex, changing, write_catalogue
from trainer.serving.live import LiveCatalogue


def index(folder: Path) -> Path:
    """Write pictures of each colour in two categories, and an index of them."""
    rows = [["path", "label", "category"]]
    for category in ("shirts", "shoes"):
        for label, colour in COLOURS.items():
            path = folder / category / f"{label}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(picture(colour, kind="PNG"))
            rows.append([str(path.relative_to(folder)), label, category])
    with open(folder / "items.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    items = get("dataset", "items").build(str(folder))
    rows_of = embed([np.asarray(open_image(path)) for path in items.path])
    with changing(folder / "index"):
        write_catalogue(CatalogueIndex.exact(items, rows_of), folder / "index")
    return folder / "index"


def main(folder: Path) -> None:
    """Serve until told to stop; the address is printed once requests are taken."""
    catalogue = LiveCatalogue(index(folder))
    options = ServiceOptions(rate=None, writable=True, access_log=False)
    bound = bind("127.0.0.1", 0)
    try:
        run(
            create_app(catalogue, embed, options),
            bound,
            started=lambda: print(address_of(bound), flush=True),
        )
    finally:
        catalogue.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
