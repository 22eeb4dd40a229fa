"""The published folder: writing it, reading it, statistics, differences between two."""
