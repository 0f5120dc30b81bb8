"""Hooks of a training run: guards, statistics, pictures, evaluation."""
