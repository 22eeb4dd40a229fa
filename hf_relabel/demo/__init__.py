"""The demo, which needs no Hub: generated scenes with known ground truth, and a real ViT."""
