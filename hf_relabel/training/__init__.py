"""Training of image classifiers on label sets: targets, losses, augmentation and the training loop."""
