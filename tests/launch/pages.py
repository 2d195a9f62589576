"""Reads the pages that commands write, as a browser would."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "img", "br", "link", "input"}


@dataclass
class Row:
    classes: str
    cells: list[str] = field(default_factory=list)
    cell_classes: list[str] = field(default_factory=list)


class Page(HTMLParser):
    """Tables, pictures and text of a page; every tag has to be closed in its turn."""

    def __init__(self, path):
        super().__init__()
        self.html = Path(path).read_text(encoding="utf-8")
        self.open, self.tables, self.images, self.text, self.tags = [], {}, [], "", []
        self.heading, self.rows, self.row = "", [], None
        self.feed(self.html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append((tag, values))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(values)
        if tag == "table":
            self.rows = self.tables.setdefault(self.label, [])
        if tag == "tr":
            self.row = Row(values.get("class") or "")
            self.rows.append(self.row)
        if tag in ("td", "th"):
            assert tag == "td" or values["scope"] in ("row", "col", "rowgroup")
            self.row.cells.append("")
            self.row.cell_classes.append(values.get("class") or "")
        if values.get("role") == "region":
            self.label = values["aria-label"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.row.cells[-1] += data

    def column(self, table, number):
        """Return the cells of a column by the first cell of their rows."""
        return {row.cells[0]: row.cells[number].strip() for row in self.tables[table][1:]}
