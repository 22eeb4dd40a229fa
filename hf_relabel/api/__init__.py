"""The Python API: `Relabeler` labels photos in memory, with the labels and masks that a run would give them."""
