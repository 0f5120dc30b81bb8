"""Comparing recipes: the rows of a plan, pretrained with every seed and judged by classifiers.

``mmsalmask ablate`` (:mod:`mmsalmask.commands.ablate`) describes the plan.
"""
