"""Measures what reading, preparing and executing cost on this device."""
