"""Pictures: galleries of masks, boxes and masks of detectors, maps of features, curves."""
