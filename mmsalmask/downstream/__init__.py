"""What a backbone is good for: downstream tasks, a module of ``tasks`` each, and the report."""
