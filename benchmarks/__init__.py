"""Speed and memory of meta-training, measured against the plain loop of a notebook: ``python -m benchmarks``."""
