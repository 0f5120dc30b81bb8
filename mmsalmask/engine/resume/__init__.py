"""Exact resume: a run that is interrupted goes on as if it had not been."""
