"""Benchmarks over commits (``bench_*.py``, asv) and of the ops alone (``test_*.py``, pytest-benchmark)."""
