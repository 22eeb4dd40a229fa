"""Labeled image datasets: stable image ids, labels, decoded images."""
