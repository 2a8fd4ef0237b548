"""Measurements that users run: benchmark, verify, and probes of drafters."""
