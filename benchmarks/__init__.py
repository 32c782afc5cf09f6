"""Benchmarks: ratios measured side by side in one run, as medians over interleaved repeats."""
