"""Two logical CPU devices for the tests of replicas; before TensorFlow starts."""

from trainer.training.strategy import prepare_devices

prepare_devices(2)
