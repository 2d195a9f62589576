"""Times of an exported model: of the calls themselves, and without the first ones."""

import time

import numpy as np
import pytest

from trainer.serving.timing import ENOUGH, WARM_UP, time_cold, time_model


class Sleeper:
    """Stands for an embedder: its first calls take long, the others `seconds`."""

    image_size = 4

    def __init__(self, seconds):
        self.seconds, self.batches = seconds, []

    def __call__(self, images):
        self.batches.append((images.shape, images.dtype))
        time.sleep(0.2 if len(self.batches) <= WARM_UP else self.seconds)
        return np.zeros((len(images), 2), np.float32)


def test_the_median_of_calls_after_warm_up():
    model = Sleeper(0.01)
    timing = time_model(model, 8, seconds=0.05, least=5)
    assert model.batches[0] == ((8, 4, 4, 3), np.uint8)
    assert timing.calls == len(model.batches) - WARM_UP >= 5
    assert 0.01 <= timing.low <= timing.seconds <= timing.high <= timing.p95 < 0.1
    assert timing.first >= 0.2
    assert timing.per_image == timing.seconds / 8
    assert timing.images_per_second == pytest.approx(8 / timing.seconds)


def test_it_goes_on_for_the_time_given():
    timing = time_model(Sleeper(0.002), 1, seconds=0.1, least=2)
    assert timing.calls * timing.high >= 0.05
    assert timing.calls > 5


def test_from_the_moment_that_a_model_is_asked_for(monkeypatch):
    def load(folder):
        assert folder == "model"
        time.sleep(0.05)
        model = Sleeper(0.001)
        model.precision, model.tta = "float16", "flip"
        return model

    monkeypatch.setattr("trainer.serving.timing.Embedder", load)
    cold = time_cold("model", 2, seconds=0.0)
    assert (cold.precision, cold.image_size, cold.tta) == ("float16", 4, "flip")
    assert 0.05 <= cold.load < 0.2 <= cold.timing.first
    assert (cold.timing.batch, cold.timing.calls) == (2, ENOUGH)
