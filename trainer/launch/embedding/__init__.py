"""Embedding a catalogue of any size: in shards, on many machines, gone on with after any stop.

Importing it loads neither Beam nor TensorFlow.
"""
