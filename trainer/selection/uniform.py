"""Uniform sampling: what every curriculum is compared with."""

from trainer.selection.curriculum import Curriculum


class Uniform(Curriculum):
    """Every prompt once per epoch in a seeded order; every group trains, whole."""
