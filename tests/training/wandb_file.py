"""Reads the file that W&B keeps of an offline run: LevelDB's log format around its own messages."""

import json
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path

BLOCK = 32 * 1024
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class Kept:
    """What one process of a run has written; `folder` holds its pictures, too."""

    folder: Path
    run_id: str = ""
    project: str = ""
    name: str = ""
    group: str = ""
    tags: tuple[str, ...] = ()
    config: dict = field(default_factory=dict)
    rows: list[dict] = field(default_factory=list)
    summary: dict = field(default_factory=dict)
    exit_code: int | None = None


def records(path):
    """Yield the payloads of the file; its first block begins after seven bytes of W&B's own."""
    data = Path(path).read_bytes()
    assert data[:4] == b":W&B"
    place, parts = 7, []
    while place + 7 <= len(data):
        left = BLOCK - place % BLOCK
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        if kind == 0:
            break
        parts.append(data[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (FULL, LAST):
            yield b"".join(parts)
            parts = []


def read_all(run_dir):
    """Return what is kept below `run_dir/wandb`, the oldest first."""
    files = Path(run_dir).glob("wandb/offline-run-*/run-*.wandb")
    return [settled(path) for path in sorted(files, key=lambda path: path.stat().st_ctime_ns)]


def settled(path):
    """Return what a file holds once its end is there, which W&B may write a moment later."""
    give_up = time.monotonic() + 10
    while True:
        kept = read(path)
        if kept.exit_code is not None or time.monotonic() > give_up:
            return kept
        time.sleep(0.02)


def read(path):
    """Return what a `run-ID.wandb` file holds."""
    from wandb.proto import wandb_internal_pb2

    kept = Kept(path.parent)
    for payload in records(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(payload)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            kept.run_id, kept.project, kept.name = run.run_id, run.project, run.display_name
            kept.group, kept.tags = run.run_group, tuple(run.tags)
            kept.config |= _values(run.config.update)
        elif kind == "config":
            kept.config |= _values(record.config.update)
        elif kind == "history":
            kept.rows.append(_values(record.history.item))
        elif kind == "summary":
            kept.summary |= _values(record.summary.update)
        elif kind == "exit":
            kept.exit_code = record.exit.exit_code
    return kept


def _values(items):
    named = {item.key or "/".join(item.nested_key): item.value_json for item in items}
    # All names with an underscore but this one are of W&B: times, its version, ...
    return {
        name: json.loads(text)
        for name, text in named.items()
        if name == "_step" or not name.startswith("_")
    }
