"""Two logical CPU devices for the tests of replicas, set before any test starts TensorFlow."""

from trainer.training.strategy import prepare_devices

prepare_devices(2)
