"""Exact models under a memory cap, measured side by side: PIPELOAD, PipeSwitch and load-all on one engine."""
