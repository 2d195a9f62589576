"""What the Dockerfile makes of a checkout, where there is no Docker: its files and its entry point.

Read are the instructions that decide what a job finds: ENV, ARG, WORKDIR, COPY, RUN of pip, and
ENTRYPOINT. Any other is an error, so that one that is added is a decision and not an oversight.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Image:
    """The file system of the image below `root`, but for Python itself and other packages."""

    root: Path
    #: Where the image would have the library installed.
    packages: Path
    workdir: str = "/"
    environment: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    #: What pip was asked for, one list of words a command.
    installed: list[list[str]] = field(default_factory=list)

    def place(self, path: str) -> Path:
        """Return where a path of the image is on this machine."""
        return self.root / os.path.normpath(os.path.join(self.workdir, path)).lstrip("/")

    def command(self, *arguments: str) -> list[str]:
        """Return the command of a container, with the Python that the tests run with."""
        python, *rest = self.entrypoint
        assert python == "python"
        return [sys.executable, *rest, *arguments]

    def files(self) -> set[str]:
        """Return all files, from the root of the image."""
        return {f"/{p.relative_to(self.root)}" for p in self.root.rglob("*") if p.is_file()}


def build(folder: Path) -> Image:
    """Do what the Dockerfile says, below `folder`."""
    image = Image(folder / "root", folder / "packages")
    arguments: dict[str, str] = {}
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        instruction, _, rest = line.strip().partition(" ")
        if instruction in ("FROM", ""):
            continue
        if instruction == "ENV":
            image.environment |= dict(word.split("=", 1) for word in shlex.split(rest))
        elif instruction == "ARG":
            name, _, value = rest.partition("=")
            arguments[name] = value
        elif instruction == "WORKDIR":
            image.workdir = rest
            image.place(".").mkdir(parents=True, exist_ok=True)
        elif instruction == "COPY":
            _copy(image, *rest.split())
        elif instruction == "ENTRYPOINT":
            image.entrypoint = json.loads(rest)
        elif instruction == "RUN":
            _run(image, rest, arguments)
        else:
            raise AssertionError(f"the tests do not know {instruction}")
    return image


def sent(patterns: str) -> set[str]:
    """Return the files of the checkout that Docker gets to see.

    Args:
        patterns: text of a .dockerignore.
    """
    rules = []
    for line in patterns.splitlines():
        if line.strip() and not line.startswith("#"):
            pattern = line.strip().removeprefix("!").strip("/")
            rules.append((_pattern(pattern), line.startswith("!")))
    tops = [name for name in os.listdir(ROOT) if name not in (".git", ".venv")]
    paths = [ROOT / name for name in tops]
    for top in tops:
        paths += (ROOT / top).rglob("*")
    found = set()
    for path in paths:
        name = path.relative_to(ROOT).as_posix()
        if path.is_file() and _let_through(name, rules):
            found.add(name)
    return found


def _let_through(name: str, rules: list[tuple[re.Pattern[str], bool]]) -> bool:
    """Whether the last rule that speaks of a file, or of a folder it is in, lets it through."""
    parts = name.split("/")
    above = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    kept = True
    for pattern, again in rules:
        if any(pattern.fullmatch(path) for path in above):
            kept = again
    return kept


def _pattern(text: str) -> re.Pattern[str]:
    """Return a pattern of .dockerignore as a regular expression."""
    words = {"**/": "(.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^]]*\])", text)
    return re.compile(
        "".join(words.get(p, p if p.startswith("[") else re.escape(p)) for p in parts)
    )


def _copy(image: Image, *words: str) -> None:
    *sources, target = words
    for name in sorted(sent((ROOT / ".dockerignore").read_text(encoding="utf-8"))):
        for source in sources:
            if name == source:
                place = image.place(f"{target}/{name}" if target.endswith("/") else target)
            elif name.startswith(f"{source}/"):
                place = image.place(target) / name.removeprefix(f"{source}/")
            else:
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, place)  # Docker, too, keeps the dates


def _run(image: Image, text: str, arguments: dict[str, str]) -> None:
    """Do what a RUN does with the library; what it needs is there already."""
    for name, value in arguments.items():
        text = text.replace(f"${{{name}}}", value)
    in_place = {"cwd": image.place("."), "check": True, "capture_output": True}
    for command in text.split("&&"):
        words = shlex.split(command)
        if words[:2] != ["pip", "install"]:
            assert words[0] in ("mkdir", "touch", "rm"), text
            assert not any(word.startswith(("/", "..")) for word in words), text
            subprocess.run(["sh", "-c", command], **in_place)
            continue
        image.installed.append(words[2:])
        assert re.fullmatch(r"\.(\[.*\])?", words[-1]), text
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
        pip += ["--no-compile", "--upgrade", "--target", str(image.packages), "."]
        subprocess.run(pip, **in_place)
