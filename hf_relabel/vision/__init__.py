"""From pixels to proposals: the frozen backbone, pooled features, MaskCut and its solvers, masks."""
