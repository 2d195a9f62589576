"""From the Amazon review dump of 2018 to a data set to train on, as Apache Beam pipelines.

Importing it loads neither Beam nor TensorFlow.
"""
