"""The embedded default: generated scenes with known truth, and a real ViT that needs no Hub."""
