"""What can be scored besides stability, by its name in `score.criteria`, each as MODULE:FUNCTION.

A table: it imports nothing, so that parameters are checked against it. What is added to it is allowed from then on.
"""

CRITERIA = {
    "entropy": "stpp.selftrain.certainty:entropy",
    "margin": "stpp.selftrain.certainty:margin",
}
"""f_K's probabilities (B, classes, H, W) -> certainty of every pixel (B, H, W)."""
