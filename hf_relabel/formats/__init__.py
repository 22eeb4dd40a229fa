"""Import and export of other formats: the paper's TSV, COCO JSON, FiftyOne folders and ReLabel label maps."""
