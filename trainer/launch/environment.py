"""Where and with what a job ran: versions, git state, devices."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("mildnet", "keras", "numpy", "faiss-cpu", "faiss-gpu-cu12", "annoy", "pillow")


def describe_environment() -> dict[str, Any]:
    """Return versions, git commit and devices, ready for JSON."""
    import tensorflow as tf

    machine = describe_machine()
    return {
        **machine,
        "devices": [device.name for device in tf.config.list_logical_devices()],
        "versions": {"tensorflow": tf.__version__, **machine["versions"]},
        "git": _git(),
    }


def describe_machine() -> dict[str, Any]:
    """Return the machine and versions of installed packages, without starting TensorFlow."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "versions": versions,
    }


def machine_in_words() -> str:
    """Return processor, cores and TensorFlow's devices in one line."""
    facts = describe_environment()
    devices = ", ".join(name.removeprefix("/device:") for name in facts["devices"])
    return f"{facts['processor']}, {facts['cores']} cores, {devices}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _git() -> dict[str, Any] | None:
    """Return the commit of the library's checkout and whether files differ from it."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    try:
        commit, changes = (
            subprocess.run(  # noqa: S603 - fixed words, no shell
                ["git", "-C", str(here), *words],  # noqa: S607 - the user's own git
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "modified": bool(changes)}
