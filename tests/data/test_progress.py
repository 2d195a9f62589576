"""The bar of work on files, as a terminal gets it."""

import io
import zipfile

from rich.console import Console

from trainer.data import archives, progress
from trainer.data.progress import bar


def terminal(monkeypatch, stream):
    """Let the bar believe that `stream` is a terminal, 100 columns wide."""
    console = Console(file=stream, force_terminal=True, width=100, color_system=None)
    monkeypatch.setattr(progress, "plain", lambda: console)


def test_a_terminal_sees_the_archive_being_unpacked(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "tops.zip", "w") as archive:
        for number in range(3):
            archive.writestr(f"{number}.jpg", bytes(1_000_000))
    shown = io.StringIO()
    terminal(monkeypatch, shown)
    archives.unpacked(str(tmp_path / "tops.zip"))
    assert "unpacking tops.zip" in shown.getvalue()
    assert "3.0/3.0 MB" in shown.getvalue()


def test_names_that_look_like_markup_are_shown_as_they_are(monkeypatch):
    shown = io.StringIO()
    terminal(monkeypatch, shown)
    with bar("unpacking [red]x[/nothing].zip", 2) as advance:
        advance(2)
    assert "unpacking [red]x[/nothing].zip" in shown.getvalue()
    assert "2/2" in shown.getvalue()


def test_nothing_is_shown_where_output_is_no_terminal(capsys):
    with bar("checking pictures", 2) as advance:
        advance(1)
    assert capsys.readouterr() == ("", "")
