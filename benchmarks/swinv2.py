"""Swin V2, forward and training step: images a second beside transformers' Swinv2Model in PyTorch.

Every measurement runs in a process of its own, in which one library is loaded, with the same
threads, the same pictures and the same random weights: PyTorch writes them, ours reads them with
`load_swinv2`, and the run stops if the two embeddings differ. A training step is forward, backward
and AdamW with amsgrad; the loss is the mean square of the embeddings. Libraries take turns, round
by round. In bfloat16 the weights stay float32 on both sides (mixed precision).

    python -m benchmarks swinv2 --hf-python .venv-swinv2/bin/python

`--backends` adds Keras' other backends, where they are installed; a GPU is used where the library
of a row sees one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

#: File with channels, depths, heads and side of a window.
SIZES = "sizes.json"
NAMES = {
    "hf": "transformers, PyTorch",
    "tensorflow": "mildnet",
    "tensorflow-onednn": "mildnet, TF_ENABLE_ONEDNN_OPTS=1",
    "tensorflow-xla": "mildnet, XLA",
    "torch": "mildnet, KERAS_BACKEND=torch",
    "jax": "mildnet, KERAS_BACKEND=jax",
}
RATE = 1e-4
#: Largest difference of two embeddings of the same picture, relative to the largest value.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}


def main(argv: list[str]) -> None:
    """Run the benchmark with the options in `argv` and print its table."""
    options = _options().parse_args(argv)
    if options.measure:
        _worker(options)
        return
    from benchmarks.report import machine, print_table
    from trainer.models.trunks.swinv2 import PRESETS

    if options.preset not in PRESETS:
        sys.exit(f"--preset {options.preset}: there are {', '.join(PRESETS)}")
    with tempfile.TemporaryDirectory() as folder:
        # In a file, for the rival's Python cannot import the library.
        (Path(folder) / SIZES).write_text(json.dumps(PRESETS[options.preset]))
        found: dict[str, list[dict[str, Any]]] = {}
        for _ in range(options.rounds):
            for row in ("hf", *options.backends):
                found.setdefault(row, []).append(_measured(row, Path(folder), options))
        rows: list[list[object]] = []
        rival: list[float] = []
        for row, rounds in found.items():
            speeds = [statistics.median(r[what] for r in rounds) for what in ("forward", "train")]
            rival = rival or speeds
            ratios = [ours / theirs for ours, theirs in zip(speeds, rival, strict=True)]
            rows.append([NAMES[row], rounds[0]["device"], *speeds, *ratios])
            _check(row, Path(folder), options.dtype)
    print(machine("tensorflow", "keras"), "| PyTorch", found["hf"][0]["version"])
    print_table(
        f"Swin V2 {options.preset}, {options.image_size} px, batch {options.batch}, "
        f"{options.dtype}, {options.threads} threads, median of {options.rounds} rounds",
        ["", "device", "forward, images/s", "training, images/s", "forward x", "training x"],
        rows,
    )


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks swinv2", description=__doc__)
    parser.add_argument("--preset", default="tiny", help="tiny, small, base or large")
    parser.add_argument("--image-size", type=int, default=256, help="pixels")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", choices=list(TOLERANCE), default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="timed calls in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hf-python", required=True, help="a Python with torch and transformers")
    parser.add_argument("--keras-python", help="for the other Keras backends; default: this one")
    parser.add_argument(
        "--backends",
        nargs="+",
        choices=[name for name in NAMES if name != "hf"],
        default=["tensorflow", "tensorflow-onednn", "tensorflow-xla"],
    )
    parser.add_argument("--measure", nargs=2, metavar=("ROW", "FOLDER"), help=argparse.SUPPRESS)
    return parser


def _measured(row: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    python = options.hf_python if row == "hf" else sys.executable
    if row in ("torch", "jax") and options.keras_python:
        python = options.keras_python
    command = [python, str(Path(__file__).resolve()), "--measure", row, str(folder)]
    command += ["--hf-python", "-"]
    for name in ("image_size", "batch", "dtype", "threads", "repeats"):
        command += ["--" + name.replace("_", "-"), str(getattr(options, name))]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(options.threads),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_ENABLE_ONEDNN_OPTS": "1" if row == "tensorflow-onednn" else "0",
        "KERAS_BACKEND": row.partition("-")[0],
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
    }
    if row == "hf":
        del environment["KERAS_BACKEND"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{NAMES[row]}: {done.stderr.strip()[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _check(row: str, folder: Path, dtype: str) -> None:
    want, got = np.load(folder / "hf.npy"), np.load(folder / f"{row}.npy")
    apart = float(np.abs(want - got).max() / np.abs(want).max())
    if not apart <= TOLERANCE[dtype]:
        sys.exit(f"{NAMES[row]}: embeddings differ from transformers' by {apart:.2g}")


def _worker(options: argparse.Namespace) -> None:
    row, folder = options.measure[0], Path(options.measure[1])
    side = options.image_size
    images = np.random.default_rng(0).normal(size=(options.batch, side, side, 3)).astype("float32")
    measure = {"hf": _hf, "torch": _keras_torch, "jax": _keras_jax}.get(row, _keras_tensorflow)
    embeddings, forward, train, about = measure(images, folder, options)
    np.save(folder / f"{row}.npy", embeddings)
    speeds = {
        "forward": options.batch / _seconds(forward, options.repeats),
        "train": options.batch / _seconds(train, options.repeats),
    }
    print(json.dumps(speeds | about))


def _seconds(call: Callable[[], object], repeats: int) -> float:
    """Return the median seconds of a call, after two unmeasured ones."""
    seconds = []
    for number in range(repeats + 2):
        start = time.perf_counter()
        call()
        if number > 1:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _sizes(folder: Path) -> Any:
    return json.loads((folder / SIZES).read_text())


def _hf(images: np.ndarray, folder: Path, options: argparse.Namespace) -> Any:
    import torch
    from transformers import Swinv2Config, Swinv2Model

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    width, depths, heads, window = _sizes(folder)
    model = Swinv2Model(
        Swinv2Config(
            image_size=options.image_size,
            window_size=window,
            embed_dim=width,
            depths=depths,
            num_heads=heads,
        )
    )
    if not (folder / "weights.npz").exists():
        np.savez(folder / "weights.npz", **{n: v.numpy() for n, v in model.state_dict().items()})
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, amsgrad=True)
    half = torch.autocast(device, torch.bfloat16, enabled=options.dtype == "bfloat16")

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def forward() -> Any:
        model.eval()
        with torch.no_grad(), half:
            result = model(x).pooler_output
        wait()
        return result

    def train() -> None:
        model.train()
        optimizer.zero_grad()
        with half:
            loss = model(x).pooler_output.float().square().mean()
        loss.backward()
        optimizer.step()
        wait()

    about = {"device": device, "version": torch.__version__}
    return forward().float().cpu().numpy(), forward, train, about


def _keras_model(folder: Path, options: argparse.Namespace) -> Any:
    import keras

    from trainer.models.swinv2 import build_swinv2
    from trainer.models.weights.swinv2 import load_swinv2

    if options.dtype == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    width, depths, heads, window = _sizes(folder)
    side = options.image_size
    trunk = build_swinv2(
        keras.Input((side, side, 3)), embed_dim=width, depths=depths, heads=heads, window=window
    )
    load_swinv2(trunk, dict(np.load(folder / "weights.npz")))
    pooled = keras.layers.GlobalAveragePooling2D(dtype="float32")(trunk.output)
    return keras.Model(trunk.input, pooled)


def _keras_tensorflow(images: np.ndarray, folder: Path, options: argparse.Namespace) -> Any:
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    model = _keras_model(folder, options)
    optimizer = keras.optimizers.AdamW(RATE, amsgrad=True)
    weights = model.trainable_variables
    optimizer.build(weights)
    xla = options.measure[0] == "tensorflow-xla"
    x = tf.constant(images)
    predict = tf.function(lambda x: model(x, training=False), autograph=False, jit_compile=xla)

    @tf.function(autograph=False, jit_compile=xla)
    def gradients(x: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True)))
        return loss, tape.gradient(loss, [weight.value for weight in weights])

    @tf.function(autograph=False)
    def step(x: Any) -> Any:
        loss, found = gradients(x)
        optimizer.apply(found, weights)
        return loss

    about = {"device": "gpu" if tf.config.list_physical_devices("GPU") else "cpu"}
    return predict(x).numpy(), lambda: predict(x).numpy(), lambda: step(x).numpy(), about


def _keras_torch(images: np.ndarray, folder: Path, options: argparse.Namespace) -> Any:
    import torch

    torch.set_num_threads(options.threads)
    model = _keras_model(folder, options)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.from_numpy(images).to(device)
    weights = [weight.value for weight in model.trainable_variables]
    optimizer = torch.optim.AdamW(weights, RATE, amsgrad=True)

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def forward() -> Any:
        with torch.no_grad():
            result = model(x, training=False)
        wait()
        return result

    def train() -> None:
        optimizer.zero_grad()
        model(x, training=True).square().mean().backward()
        optimizer.step()
        wait()

    return forward().float().cpu().numpy(), forward, train, {"device": device}


def _keras_jax(images: np.ndarray, folder: Path, options: argparse.Namespace) -> Any:
    import jax
    import keras

    model = _keras_model(folder, options)
    optimizer = keras.optimizers.AdamW(RATE, amsgrad=True)
    optimizer.build(model.trainable_variables)
    x = jax.numpy.asarray(images)

    def values(variables: Any) -> Any:
        return [variable.value for variable in variables]

    state = [
        values(model.trainable_variables),
        values(model.non_trainable_variables),
        values(optimizer.variables),
    ]
    predict = jax.jit(
        lambda weights, rest, x: model.stateless_call(weights, rest, x, training=False)[0]
    )

    def loss_of(weights: Any, rest: Any, x: Any) -> Any:
        embeddings, rest = model.stateless_call(weights, rest, x, training=True)
        return jax.numpy.mean(jax.numpy.square(embeddings)), rest

    @jax.jit
    def step(weights: Any, rest: Any, moments: Any, x: Any) -> Any:
        (_, rest), found = jax.value_and_grad(loss_of, has_aux=True)(weights, rest, x)
        weights, moments = optimizer.stateless_apply(moments, found, weights)
        return weights, rest, moments

    def forward() -> Any:
        return predict(state[0], state[1], x).block_until_ready()

    def train() -> None:
        state[:] = jax.block_until_ready(step(*state, x))

    return np.asarray(forward()), forward, train, {"device": jax.devices()[0].platform}


if __name__ == "__main__":
    main(sys.argv[1:])
