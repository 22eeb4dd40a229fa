"""Training of image classifiers on label sets: targets, losses, augmentation, the loop."""
