"""`sti bench`: accuracy, latency and memory of STI beside the baselines of its paper (docs/bench.md)."""
