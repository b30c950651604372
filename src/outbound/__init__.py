"""Outbound places batches of phone calls."""

__version__ = "0.1.0"
