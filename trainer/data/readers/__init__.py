"""Readers: one data set format each, into an ItemTable."""
