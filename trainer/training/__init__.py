"""The training loop and what it is made of; TensorFlow is imported by the modules, not here."""
