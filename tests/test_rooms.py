"""A room imports only itself and the rooms before it, and the front door is light."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = (
    "config",
    "data",
    "models",
    "losses",
    "retrieval",
    "training",
    "serving",
    "launch",
    "examples",
)
#: Files beside the rooms: the commands may use every room, the package itself none.
DOORS = {"__init__": 0, "cli": len(ROOMS) + 1, "task": len(ROOMS) + 1}


def imports(path: Path, package: Path) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of each import of the package, wherever in the file it stands."""
    here = path.relative_to(package.parent).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: len(here) - node.level]) if node.level else ""
            base = ".".join(part for part in (base, node.module) if part)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def place(module: str) -> int | None:
    """Return the place of a module of the package in the order, or None if it is a stranger's."""
    parts = module.split(".")
    if parts[0] != "trainer":
        return None
    if len(parts) == 1 or parts[1].startswith("__"):
        return 0
    if parts[1] in ROOMS:
        return 1 + ROOMS.index(parts[1])
    return DOORS.get(parts[1], len(ROOMS) + 1)


def violations(package: Path) -> list[str]:
    """Return every import that looks ahead, and every file that is in no room."""
    found = []
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package)
        room = inside.parts[0].removesuffix(".py")
        if len(inside.parts) == 1 and room not in DOORS:
            found.append(f"{inside}: a file outside the rooms")
        if len(inside.parts) > 1 and room not in ROOMS:
            found.append(f"{inside}: not a room")
        own = place(".".join(("trainer", *inside.with_suffix("").parts)))
        for line, name in imports(path, package):
            other = place(name)
            if other is not None and own is not None and other > own:
                found.append(f"{inside}:{line}: imports {name}")
    return found


def test_every_room_imports_only_rooms_before_it():
    assert violations(ROOT / "trainer") == []


@pytest.mark.parametrize(
    ("file", "text", "bad"),
    [
        ("data/a.py", "from trainer.models import b", "data/a.py:1: imports trainer.models.b"),
        ("data/a.py", "import os\nimport trainer.cli", "data/a.py:2: imports trainer.cli"),
        ("data/a.py", "from trainer import losses", "data/a.py:1: imports trainer.losses"),
        ("data/a.py", "from ..models import b", "data/a.py:1: imports trainer.models.b"),
        ("data/a/b.py", "from ...losses.x import b", "data/a/b.py:1: imports trainer.losses.x.b"),
        ("data/a.py", "def f():\n  import trainer.launch", "data/a.py:2: imports trainer.launch"),
        ("__init__.py", "from trainer.config import a", "__init__.py:1: imports trainer.config.a"),
        ("misc/a.py", "", "misc/a.py: not a room"),
        ("helpers.py", "", "helpers.py: a file outside the rooms"),
    ],
)
def test_the_check_sees(file: str, text: str, bad: str, tmp_path: Path):
    path = tmp_path / "trainer" / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert violations(tmp_path / "trainer") == [bad]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("data/a.py", "from trainer.config import b\nfrom trainer.data.x import y\nimport os"),
        ("data/a.py", "from . import x\nfrom .. import config\nfrom trainer import __version__"),
        ("launch/a.py", "from trainer.serving import b"),
        ("cli.py", "from trainer.launch import b"),
    ],
)
def test_the_check_lets_pass(file: str, text: str, tmp_path: Path):
    path = tmp_path / "trainer" / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert violations(tmp_path / "trainer") == []


LIGHT = [
    "trainer",
    "trainer.config",
    "trainer.config.describe",
    "trainer.config.console",
    "trainer.launch",
    "trainer.launch.picker",
    "execute",
    "trainer.cli",
    "trainer.task",
]


def modules_after(*arguments: str) -> set[str]:
    """Return the top-level packages that a Python process has imported when it ends well."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in lines}


@pytest.mark.parametrize("module", LIGHT)
def test_the_front_door_imports_no_tensorflow(module: str):
    found = modules_after("-c", f"import {module}")
    assert module.split(".")[0] in found
    assert not found & {"tensorflow", "keras", "faiss", "matplotlib"}


@pytest.mark.parametrize("arguments", [["execute.py", "--list"], ["-m", "trainer.cli", "--help"]])
def test_listings_and_help_import_no_tensorflow(arguments: list[str]):
    found = modules_after(*arguments)
    assert "typer" in found
    assert not found & {"tensorflow", "keras", "faiss", "matplotlib"}
