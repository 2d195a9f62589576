"""mildnet: visual product search, from a job config to neighbours."""

__version__ = "0.1.0"
