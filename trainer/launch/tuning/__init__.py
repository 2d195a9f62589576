"""Hyper-parameter search: what is tried, one trial, a study of many, and what they came to."""
