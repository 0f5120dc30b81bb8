"""The downstream tasks, one in a module; each registers itself as it is imported."""
