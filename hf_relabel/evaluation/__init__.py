"""Measures against a truth: metrics, audits, predictions, reports."""
