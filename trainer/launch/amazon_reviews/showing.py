"""What was counted on the way from the dump to the tables, for people."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from trainer.data.fetch import REASONS

if TYPE_CHECKING:
    from trainer.launch.amazon_reviews.creating import Created

#: Rows before those of the thresholds: counter and its name for people.
BEFORE = (
    ("reviews_lines", "reviews read"),
    ("reviews_malformed", "  malformed"),
    ("reviews_with_pictures", "  with pictures"),
    ("products", "products read"),
    ("metadata_malformed", "  malformed"),
    ("products_with_user_pictures", "products with user pictures"),
    ("products_joined", "  with pictures of the shop, too"),
    ("embed_done", "pictures embedded"),
    *((f"embed_failed_{reason}", f"  not: {reason}") for reason in REASONS),
    ("products_compared", "products compared"),
    ("pairs", "  pairs of pictures"),
    ("download_done", "pictures downloaded"),
    *((f"download_failed_{reason}", f"  not: {reason}") for reason in REASONS),
)
#: Rows of each threshold.
OF_THRESHOLD = (
    ("kept_user", "user pictures kept"),
    ("kept", "  with those of their products"),
    ("products_written", "  products written"),
    ("written", "  pictures written"),
)


def show_created(created: Created, console: Console) -> None:
    """Print the counters, of all categories together, and where the files are."""
    total: dict[str, int] = {}
    for counts in created.counts.values():
        for name, count in counts.items():
            total[name] = total.get(name, 0) + count
    table = Table(title="From the dump to the tables", title_justify="left")
    table.add_column("")
    table.add_column("", justify="right")
    for name, words in BEFORE:
        # Faults that did not come up say nothing.
        if name in total or not words.startswith("  "):
            table.add_row(words, f"{total.get(name, 0):,}")
    for threshold in created.tables:
        table.add_section()
        for name, words in OF_THRESHOLD:
            head = f" above {threshold:g}" if name == "kept_user" else ""
            table.add_row(words + head, f"{total.get(f'{name}_{threshold:g}', 0):,}")
    console.print(table)
    if created.due is not None:
        due = datetime.datetime.fromtimestamp(created.due).astimezone()
        console.print(
            f"some failures may pass: start again after {due:%Y-%m-%d %H:%M %Z} to ask again",
            soft_wrap=True,
        )
    files = {**{f"above {t:g}": path for t, path in created.tables.items()}}
    files |= {"failures": created.failures, "counters": created.counters}
    for label, path in files.items():
        console.print(f"{label:<11}{path}", soft_wrap=True, markup=False)
