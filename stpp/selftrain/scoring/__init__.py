"""Scores of images: stability over checkpoints (paper, 3.4), and criteria from the probabilities of all classes."""
