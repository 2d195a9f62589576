"""Weights from elsewhere: files of other libraries, read safely and given to our layers."""
