"""From pixels to proposals: the frozen backbone, feature pooling, MaskCut and its solver, and masks."""
