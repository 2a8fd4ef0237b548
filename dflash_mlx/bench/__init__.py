"""Measurements and comparisons that people run themselves."""
