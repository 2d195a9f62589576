"""`mildnet serve` of a finished run: the whole of it in a process, and how it refuses to start."""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import tensorflow as tf
from fastapi.testclient import TestClient
from PIL import Image
from typer.testing import CliRunner

from tests.launch.conftest import in_a_bucket
from tests.test_docs import APPS, blocks_of, parse
from trainer.cli import app
from trainer.data.decode import decode
from trainer.launch.run_folder import RunFolder
from trainer.launch.searching import search_images
from trainer.serving.api.model import Model
from trainer.serving.catalogue import load_catalogue

KEY = "a-key-of-some-length"
RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def logs_as_before():
    """The command sets up the log of its process, which is this one here."""
    loggers = [logging.getLogger(name) for name in ("trainer", "uvicorn")]
    before = [(logger.level, list(logger.handlers), logger.propagate) for logger in loggers]
    yield
    for logger, (level, handlers, propagate) in zip(loggers, before, strict=True):
        logger.level, logger.handlers, logger.propagate = level, handlers, propagate


def client_of_the_guide():
    """Return the function that the guide shows."""
    namespace: dict = {}
    for block in blocks_of("docs/serving.md"):
        if block.language == "python":
            exec(block.text, namespace)  # noqa: S102 - our own guide
    return namespace["search"]


def wait_for_search(address: str) -> None:
    for _ in range(600):
        text = httpx.get(f"{address}/metrics", headers={"X-API-Key": KEY}).text
        if "mildnet_requests_in_flight 2.0" in text:
            return
        time.sleep(0.02)
    raise AssertionError("no search was begun")


def test_a_process_serves_a_run_until_it_is_told_to_stop(finished, tmp_path):
    _, result = finished
    run = tmp_path / "run"
    shutil.copytree(result.run_dir, run)
    paths = load_catalogue(run / "index").items.path[:3].tolist()
    expected = search_images(RunFolder.open(str(run)), paths, 5)
    command = [sys.executable, "-m", "trainer.cli", "serve", str(run), "--port", "0", "--writable"]
    service = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=(tmp_path / "log").open("w"),
        text=True,
        env=os.environ | {"MILDNET_API_KEY": KEY},
    )
    try:
        line = service.stdout.readline()
        found = re.fullmatch(r"serving ([\d,]+) products at (http://127\.0\.0\.1:\d+)\n", line)
        assert found, (line, (tmp_path / "log").read_text())
        address, headers = found[2], {"X-API-Key": KEY}
        search = client_of_the_guide()
        for number, path in enumerate(paths):
            hits = search(path, address, KEY, k=5)
            rows = expected[5 * number : 5 * number + 5]
            assert [hit["label"] for hit in hits] == [row["label"] for row in rows]
            assert [hit["score"] for hit in hits] == pytest.approx(
                [row["score"] for row in rows], abs=1e-5
            )
        with pytest.raises(RuntimeError, match="401: this needs an API key"):
            search(paths[0], address)
        added = httpx.put(
            f"{address}/v1/products/new/1",
            files={"picture": Path(paths[0]).read_bytes()},
            data={"label": "twin"},
            headers=headers,
        )
        assert added.status_code == 201
        assert "twin" in {hit["label"] for hit in search(paths[0], address, KEY, k=2)}

        # A large picture, which takes a while.
        with ThreadPoolExecutor(1) as pool:
            large = tmp_path / "large.png"
            Image.new("RGB", (6000, 6000)).save(large)
            pending = pool.submit(search, large, address, KEY)
            wait_for_search(address)
            service.send_signal(signal.SIGTERM)
            assert pending.result()
        assert service.wait(timeout=60) == 0
        assert service.stdout.read() == ""
    finally:
        service.kill()
        service.communicate()
    log = (tmp_path / "log").read_text()
    assert re.search(r"127\.0\.0\.1 POST /v1/search 200 \d+ bytes [\d.]+ ms", log)
    assert KEY not in log
    assert "Traceback" not in log
    assert (run / "index.changes.sqlite").is_file()


def refused(*arguments: str) -> str:
    outcome = RUNNER.invoke(app, ["serve", *arguments])
    assert outcome.exit_code == 2, outcome.output
    assert len(outcome.stderr.strip().splitlines()) == 1, outcome.stderr
    return outcome.stderr


@pytest.fixture
def empty_run(tmp_path, finished):
    """A run with nothing in it but its config."""
    _, result = finished
    folder = tmp_path / "empty"
    folder.mkdir()
    shutil.copy(Path(result.run_dir) / "config.json", folder)
    return str(folder)


def test_what_cannot_start_says_so_in_one_line(empty_run, tmp_path, monkeypatch):
    monkeypatch.delenv("MILDNET_API_KEY", raising=False)
    assert "not a run folder" in refused(str(tmp_path))
    assert "no exported model" in refused(empty_run, "--port", "0")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert "address already in use" in refused(empty_run, "--port", str(other.getsockname()[1]))
    assert "must be like 20/second" in refused(empty_run, "--port", "0", "--rate", "often")
    assert "k=0 must be at least 1" in refused(empty_run, "-k", "0")
    assert "k=20 must be at most most_k=5" in refused(empty_run, "--most-k", "5")
    assert "no such file" in refused(empty_run, "--api-key-file", str(tmp_path / "none"))


def test_an_index_that_is_missing_or_of_another_model_is_refused(finished, tmp_path):
    _, result = finished
    assert "missing" in refused(result.run_dir, "--port", "0", "--index", str(tmp_path / "none"))
    other = tmp_path / "index"
    shutil.copytree(Path(result.run_dir) / "index", other)
    meta = other / "meta.json"
    meta.write_text(re.sub(r'("model": ")[0-9a-f]{64}', rf"\g<1>{'0' * 64}", meta.read_text()))
    assert "another model" in refused(result.run_dir, "--port", "0", "--index", str(other))


def test_a_missing_extra_is_named(empty_run, monkeypatch):
    for name in [*sys.modules]:
        if name.startswith("trainer.serving.api"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert 'needs fastapi: pip install "mildnet[serve]"' in refused(empty_run)


def test_commands_of_the_guide_have_options_that_exist():
    lines = [
        line
        for block in blocks_of("docs/serving.md")
        if block.language == "sh"
        for line in block.commands()
        if line.startswith("mildnet serve")
    ]
    assert len(lines) >= 2
    for line in lines:
        parse(APPS[("mildnet",)], line.split()[1:])


def test_pictures_decoded_together_are_what_each_is_alone(finished, tmp_path):
    _, result = finished
    model = Model(f"{result.run_dir}/model", 8)
    pixels = np.random.default_rng(0).integers(0, 256, (90, 150, 3), np.uint8)
    files = []
    for kind in ("jpeg", "png", "webp", "bmp"):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, kind)
        files.append(stream.getvalue())
    boxes = [None, (10, 20, 70, 80), None, (0, 0, 150, 90)]
    parts = list(zip(files, boxes, strict=True))
    alone = [model.decode([part])[0] for part in parts]
    np.testing.assert_array_equal(model.decode(parts), alone)
    np.testing.assert_array_equal(model.decode(parts[::2]), [alone[0], alone[2]])
    # As pictures are decoded for training.
    for (content, box), image in zip(parts, alone, strict=True):
        edges = (
            None
            if box is None
            else tf.constant([box[0], box[1], box[2] - box[0], box[3] - box[1]], tf.float32)
        )
        expected = decode(tf.constant(content), model.embedder.image_size, edges, pillow=True)
        np.testing.assert_array_equal(image, expected)
    assert not (alone[0] == alone[1]).all()
    with pytest.raises(tf.errors.OpError):
        model.decode([parts[0], (files[1][:200], None)])


def test_a_remote_run_is_served_from_copies(finished, monkeypatch):
    _, result = finished
    remote = in_a_bucket(Path(result.run_dir))
    answers = []

    def ask(service, bound, **options):
        with TestClient(service, base_url="http://localhost") as client:
            content = Path(load_catalogue(f"{result.run_dir}/index").items.path[0]).read_bytes()
            answers.append(client.post("/v1/search", files={"picture": content}))

    monkeypatch.setattr("trainer.serving.api.server.run", ask)
    outcome = RUNNER.invoke(app, ["serve", remote, "--port", "0", "-k", "3"])
    assert outcome.exit_code == 0, outcome.output
    assert answers[0].status_code == 200
    assert len(answers[0].json()["neighbours"]) == 3
    assert "--changes FILE" in refused(remote, "--port", "0", "--writable")
