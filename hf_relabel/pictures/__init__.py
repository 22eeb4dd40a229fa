"""Overlays of masks on photos, and charts."""
