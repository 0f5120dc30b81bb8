"""Strategies, one in a file. Whatever class lies in this folder is one of the package's."""

from mmsalmask.parts import load

load(__name__, __path__)
