"""Comparison of the pipeline with its alternatives, on the same images with known truth."""
