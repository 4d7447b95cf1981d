"""Elastic fine-tuning: a checkpoint whose first n layers and first m slices work for every n and m."""
