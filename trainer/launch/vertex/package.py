"""The source package of a remote job: this library, and the user's own modules beside it."""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import trainer
from trainer.config import JobConfig, UserError, nearest
from trainer.config.registry import PACKAGE

NAME = "mildnet"
#: Versions that a checkout was tested with; pip takes them on the remote machine, too.
CONSTRAINTS = "constraints.txt"
#: Keys of a config that name a module of the user's own, and those that name a function in one.
_MODULES, _FUNCTIONS = ("model_module", "trainer"), ("decay_function", "trainable_function")

_SETUP = """
import json, setuptools
from distutils.core import run_setup
found = run_setup("setup.py", stop_after="init")
print(json.dumps([found.install_requires, found.extras_require, found.python_requires]))
"""
_BUILD = (
    "import sys; from setuptools.build_meta import build_sdist; print(build_sdist(sys.argv[1]))"
)
_PYPROJECT = """[build-system]
requires = ["setuptools>=70"]
build-backend = "setuptools.build_meta"

[project]
name = {name}
version = {version}
requires-python = {python}
dependencies = {dependencies}

[project.scripts]
mildnet = "trainer.cli:main"

[tool.setuptools]
py-modules = {modules}
include-package-data = true

[tool.setuptools.packages.find]
include = {packages}
"""


@dataclass(frozen=True)
class Package:
    """A source package, ready to be staged.

    Attributes:
        file_name: such as `mildnet-0.1.0.tar.gz`.
        content: its bytes, the same for the same source.
        digest: 12 hex digits of a hash over what is in it; names its folder in the bucket.
        constraints: text of the versions to install it with, or None if there are none.
    """

    file_name: str
    content: bytes
    digest: str
    constraints: str | None

    @property
    def place(self) -> str:
        """Where it is in the bucket, below the jobs' folder."""
        return f"packages/{self.digest}/{self.file_name}"

    @property
    def constraints_place(self) -> str:
        """Where its versions are in the bucket, below the jobs' folder."""
        return f"packages/{self.digest}/{CONSTRAINTS}"


@dataclass(frozen=True)
class _Metadata:
    requires: tuple[str, ...]
    extras: dict[str, list[str]]
    python: str


def build(config: JobConfig, extras: Sequence[str] = ()) -> Package:
    """Make the source package of a job: nothing is downloaded, and no file is left behind.

    It is the library as it is here, from a checkout or as installed, with the modules of the
    working folder that `config` names. The packages of `extras` become requirements, since a
    service that installs a file can't be told extras.

    Args:
        config: of the job.
        extras: such as `cpu`.

    Raises:
        UserError: an extra or a module does not exist, or setuptools can't build the package.
    """
    metadata = _checkout_metadata() if checkout() else _installed_metadata()
    for name in extras:
        if name not in metadata.extras:
            raise UserError(f"extras: no extra {name!r}{nearest(name, metadata.extras)}")
    requires = [*metadata.requires, *(r for name in extras for r in metadata.extras[name])]
    own = user_code(config)
    versions = PACKAGE.parent / CONSTRAINTS
    constraints = None
    if checkout() and versions.is_file():
        constraints = versions.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "source"
        packages = _fill(tree, own)
        modules = [path.stem for path in own if path.is_file()]
        _write_metadata(tree, metadata.python, requires, packages, modules)
        digest = _digest(tree, constraints)
        file_name, content = _sdist(tree, Path(scratch) / "built")
    return Package(file_name, content, digest, constraints)


def checkout() -> bool:
    """Return whether the library is a checkout, rather than installed from a package."""
    root = PACKAGE.parent
    return (root / "setup.py").is_file() and (root / "pyproject.toml").is_file()


def user_code(config: JobConfig) -> list[Path]:
    """Return the modules and packages of the user's own that a config names, as files and folders.

    Raises:
        UserError: one can't be found, or is installed and so is nothing that could be sent along.
    """
    named = {key: getattr(config, key) for key in _MODULES}
    named |= {f"train.{key}": getattr(config.training, key) for key in _FUNCTIONS}
    named["schedule.function"] = config.parameters["schedule"].get("function", "")
    found: dict[str, Path] = {}
    for key, name in named.items():
        top = name.partition(".")[0]
        if top and top != "trainer" and top not in found:
            found[top] = _place(top, f"{key}={name}")
    return list(found.values())


def _place(top: str, where: str) -> Path:
    folder, module = Path(top), Path(f"{top}.py")
    # In the order in which Python looks; a package need not have an __init__.py.
    if (folder / "__init__.py").is_file():
        return folder
    if module.is_file():
        return module
    if any(folder.rglob("*.py")):
        return folder
    if importlib.util.find_spec(top) is None:
        raise UserError(f"{where}: no module {top!r} in {os.getcwd()}")
    raise UserError(
        f"{where}: {top} is installed here and not in the working folder, so the job would not "
        "find it; give an image with it (--image), or run the command where its source is"
    )


def _checkout_metadata() -> _Metadata:
    output = _run(_SETUP, PACKAGE.parent)
    core, given, python = json.loads(output.strip().rpartition("\n")[2])
    requires: list[str] = list(core)
    extras: dict[str, list[str]] = {name: [] for name in given if ":" not in name}
    # Where a requirement has a marker, setuptools makes a key of it: `extra:marker`.
    for key, texts in given.items():
        name, _, marker = key.partition(":")
        found = extras[name] if name else requires
        found += [f"{text}; {marker}" if marker else text for text in texts]
    return _Metadata(tuple(requires), extras, str(python))


def _installed_metadata() -> _Metadata:
    from packaging.markers import Marker
    from packaging.requirements import Requirement

    try:
        installed = importlib.metadata.metadata(NAME)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            f"{PACKAGE.parent} is neither a checkout of mildnet nor an installed package of it, so "
            "what it requires is not known; give an image with it (--image)"
        ) from None
    requires: list[str] = []
    extras: dict[str, list[str]] = {name: [] for name in installed.get_all("Provides-Extra") or ()}
    for text in installed.get_all("Requires-Dist") or ():
        requirement, found = Requirement(text), requires
        # The extra comes last, after what has to hold of the machine, which is the job's.
        match = re.fullmatch(r'(?:(.*) and )?extra == "([^"]+)"', str(requirement.marker or ""))
        if match:
            requirement.marker = Marker(match[1]) if match[1] else None
            found = extras[match[2]]
        found.append(str(requirement))
    return _Metadata(tuple(requires), extras, installed["Requires-Python"] or ">=3.11")


def _fill(tree: Path, own: Iterable[Path]) -> list[str]:
    """Copy the sources, and return the patterns of their packages."""
    skipped = shutil.ignore_patterns("__pycache__", "*.py[cod]", ".*")
    shutil.copytree(PACKAGE, tree / PACKAGE.name, ignore=skipped)
    folders = [PACKAGE.name]
    for path in own:
        if path.is_dir():
            shutil.copytree(path, tree / path.name, ignore=skipped)
            folders.append(path.name)
        else:
            shutil.copyfile(path, tree / path.name)
    manifest = "".join(f"graft {folder}\n" for folder in folders)
    (tree / "MANIFEST.in").write_text(manifest, encoding="utf-8")
    return [pattern for folder in folders for pattern in (folder, f"{folder}.*")]


def _write_metadata(
    tree: Path,
    python: str,
    requires: Iterable[str],
    packages: Sequence[str],
    modules: Sequence[str],
) -> None:
    values = {
        "name": NAME,
        "version": trainer.__version__,
        "python": python,
        "dependencies": list(dict.fromkeys(requires)),
        "modules": list(modules),
        "packages": list(packages),
    }
    # Strings and lists of strings are written in TOML as they are in JSON.
    text = _PYPROJECT.format(**{key: json.dumps(value) for key, value in values.items()})
    (tree / "pyproject.toml").write_text(text, encoding="utf-8")


def _digest(tree: Path, constraints: str | None) -> str:
    found = hashlib.sha256((constraints or "").encode())
    for path in sorted(path for path in tree.rglob("*") if path.is_file()):
        data = path.read_bytes()
        found.update(f"\0{path.relative_to(tree).as_posix()}\0{len(data)}\0".encode())
        found.update(data)
    return found.hexdigest()[:12]


def _sdist(tree: Path, to: Path) -> tuple[str, bytes]:
    to.mkdir()
    name = _run(_BUILD, tree, str(to)).strip().rpartition("\n")[2]
    return name, _repacked(to / name)


def _repacked(path: Path) -> bytes:
    """Return an archive without times and owners, so that the same source gives the same bytes."""
    packed = io.BytesIO()
    with tarfile.open(path) as source, tarfile.open(fileobj=packed, mode="w") as target:
        for member in _in_order(source):
            member.mtime, member.mode = 0, 0o644 if member.isfile() else 0o755
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.pax_headers = {}
            target.addfile(member, source.extractfile(member) if member.isfile() else None)
    return gzip.compress(packed.getvalue(), mtime=0)


def _in_order(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    return iter(sorted(archive.getmembers(), key=lambda member: member.name))


def _run(program: str, folder: Path, *arguments: str) -> str:
    if importlib.util.find_spec("setuptools") is None:
        raise UserError(
            "the package of a remote job is built with setuptools, which is not installed here: "
            "pip install setuptools; or give an image with mildnet in it (--image)"
        )
    done = subprocess.run(  # noqa: S603 - our own programs
        [sys.executable, "-c", program, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise UserError(f"the package of the job can't be built: {last}")
    return done.stdout
