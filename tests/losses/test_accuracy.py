import keras
import numpy as np
import pytest

from trainer.losses.accuracy import TripletAccuracy, triplet_accuracy

RIGHT = [[0.0], [1.0], [2.0]]
WRONG = [[0.0], [2.0], [1.0]]
EQUAL = [[0.0], [1.0], [-1.0]]


def test_share_of_triplets_in_percent():
    assert float(triplet_accuracy(np.array([RIGHT, WRONG, EQUAL, RIGHT]))) == pytest.approx(50)
    assert triplet_accuracy(np.zeros((0, 3, 4))) == 0


def test_metric_averages_over_triplets_not_batches():
    metric = TripletAccuracy()
    metric.update_state(None, np.array([RIGHT, WRONG, WRONG]))
    metric.update_state(np.zeros(1), np.array([RIGHT]))
    assert float(metric.result()) == pytest.approx(50)
    metric.reset_state()
    metric.update_state(None, np.array([RIGHT]))
    assert float(metric.result()) == pytest.approx(100)
    again = keras.metrics.deserialize(keras.metrics.serialize(metric))
    assert isinstance(again, TripletAccuracy)
    assert again.name == "triplet_accuracy"
