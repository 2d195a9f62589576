"""Triplets from a catalogue: from its labels, or from what simple scorers agree on."""
