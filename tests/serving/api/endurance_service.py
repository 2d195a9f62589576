"""A service in a process of its own: colour histograms as embeddings, products in a folder."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.serving.api.catalogue import embed, indexed
from trainer.serving.api import ServiceOptions, create_app
from trainer.serving.api.server import address_of, bind, run
from trainer.serving.live import LiveCatalogue


def main(folder: Path) -> None:
    """Serve until told to stop; the address is printed once requests are taken."""
    catalogue = LiveCatalogue(indexed(folder))
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
