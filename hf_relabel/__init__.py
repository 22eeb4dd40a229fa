"""hf_relabel: turn a single-label image dataset into a multi-label one, with masks, and publish it on the Hub."""

__version__ = "0.1.0"
