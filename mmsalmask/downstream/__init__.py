"""What a backbone is good for: detection and segmentation in mmdet and mmseg, and their report."""
