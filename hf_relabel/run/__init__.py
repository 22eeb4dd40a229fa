"""Carrying out a run: ranks, claims on shards, atomic files and fingerprints, progress."""
