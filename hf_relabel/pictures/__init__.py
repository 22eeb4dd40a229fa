"""Overlays of masks on images, contact sheets and charts."""
