"""From what a model and a device cost to the plan of a run: pure functions, no files, no clocks, no threads."""
