import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trainer import losses
from trainer.config import UserError, registry

ROOT = Path(__file__).parents[2]


def test_a_misspelt_name_or_parameter_is_named():
    with pytest.raises(UserError, match="unknown loss 'triplet_semihart'; did you mean"):
        losses.get("triplet_semihart")
    with pytest.raises(UserError, match="no parameter 'margn'; did you mean 'margin'"):
        losses.get("triplet_semihard", margn=0.2)


def test_listing_losses_loads_no_tensorflow():
    code = (
        "import sys; import trainer.losses; from trainer.config import registry;"
        "assert len(registry.components('loss')) >= 9; assert 'tensorflow' not in sys.modules;"
        "assert 'keras' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_losses_are_written_for_every_keras_backend():
    for path in (ROOT / "trainer" / "losses").glob("*.py"):
        assert "tensorflow" not in path.read_text().replace("tensorflow_addons", ""), path.name


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_values_on_another_backend(tmp_path, backend):
    pytest.importorskip(backend)
    random = np.random.default_rng(0)
    labels = np.append(np.arange(20) // 4, np.full(12, 9))
    shapes = {"labels": (32, 5), "triplets": (8, 3, 5), "pairs": (32, 2, 5)}
    x = {takes: random.normal(size=shape) for takes, shape in shapes.items()}
    proxies = random.normal(size=(100, 5))
    np.savez(tmp_path / "in.npz", y=labels, proxies=proxies, **x)
    code = """
import numpy as np
from trainer import losses
from trainer.config import registry
given = np.load("in.npz")
for name, found in registry.components("loss").items():
    x = given[found.tags["takes"]]
    loss = losses.get(name)
    if hasattr(loss, "prepare"):
        loss.prepare(range(10), 5)
        loss.set_weights([given["proxies"][:len(loss.get_weights()[0])]])
    print(name, float(loss(given["y"], x)))
"""
    environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)}
    output = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    ).stdout
    found = dict(line.split() for line in output.splitlines())
    assert set(found) == set(registry.components("loss"))
    for name, value in found.items():
        loss = losses.get(name)
        if hasattr(loss, "prepare"):
            loss.prepare(range(10), 5)
            loss.set_weights([proxies[: len(loss.get_weights()[0])]])
        expected = loss(labels, x[registry.get("loss", name).tags["takes"]])
        assert float(value) == pytest.approx(float(expected), rel=1e-5)
