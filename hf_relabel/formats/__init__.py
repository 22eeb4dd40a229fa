"""Other formats of labels and masks: the paper's TSV, COCO JSON, FiftyOne's folder, ReLabel's files."""
