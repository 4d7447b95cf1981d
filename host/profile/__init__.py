"""Measures how much each shard of a store matters (docs/profile.md)."""
