"""The public Python of this project; ``import mmsalmask as sm`` has all of it as ``sm.<name>``."""
