"""Stages: pipelines that are run once, and what each has left behind."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any

from apache_beam.io.filesystems import FileSystems

from trainer.config import UserError
from trainer.launch.beam import places
from trainer.launch.beam.running import Counts


@dataclass(frozen=True)
class Stage:
    """A step's files in a folder, with a note of the settings that they are made by.

    Attributes:
        folder: of its files.
        settings: JSON-ready; a stage is up to date only by equal ones.
        people: what the stage does, for messages.
    """

    folder: str
    settings: dict[str, Any]
    people: str

    @property
    def note(self) -> str:
        """Path of the note."""
        return FileSystems.join(self.folder, "stage.json")

    def state(self) -> dict[str, Any] | None:
        """Return the note, None of a stage that was never begun."""
        try:
            return places.read_json(self.note)
        except ValueError:
            raise UserError(f"{self.note} is damaged: delete {self.folder}") from None

    def finished(self, now: float | None = None) -> Counts | None:
        """Return what was counted if the stage is finished and nothing in it is due.

        Args:
            now: seconds since 1970; default: the time it is.
        """
        state = self.state()
        if state is None or state["settings"] != self.settings or state["counts"] is None:
            return None
        now = time.time() if now is None else now
        return None if state["due"] is not None and state["due"] <= now else state["counts"]

    def refuse_others(self, folder: str) -> None:
        """Check that the stage was not begun with other settings.

        Args:
            folder: of the data set, for the message.

        Raises:
            UserError: it was.
        """
        state = self.state()
        if state is None or state["settings"] == self.settings:
            return
        names = [
            name for name in self.settings if state["settings"].get(name) != self.settings[name]
        ]
        raise UserError(
            f"{folder} holds work with other {' and '.join(names)} ({self.people}): choose another "
            "folder, or go on with the same"
        )

    def begin(self, *, clear: bool) -> None:
        """Note that the stage is being worked on.

        Args:
            clear: delete what is in its folder; otherwise that is gone on with.
        """
        if clear:
            places.clear(self.folder)
        places.write_json(self.note, {"settings": self.settings, "counts": None, "due": None})

    def finish(self, counts: Counts, due: int | None = None) -> Counts:
        """Note that the stage is finished, and return the counts.

        Args:
            counts: what was counted.
            due: seconds since 1970 at which failures may be tried again.
        """
        places.write_json(self.note, {"settings": self.settings, "counts": counts, "due": due})
        return counts

    def content(self, *patterns: str) -> str:
        """Return 16 hex digits that stand for the settings and the names of files."""
        names = [
            path[len(self.folder) :]
            for pattern in patterns
            for path in places.find(FileSystems.join(self.folder, pattern))
        ]
        text = json.dumps([self.settings, names], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
