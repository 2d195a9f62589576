"""What pipelines of Apache Beam have in common: how they are run, and files wherever Beam goes.

Importing it loads neither Beam nor TensorFlow.
"""
