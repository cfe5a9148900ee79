"""A registry of the scores besides stability: name in `score.criteria` -> MODULE:FUNCTION.

The table imports nothing, so that parameters can be checked against it. A name that is added here becomes valid in
params.yaml.
"""

CRITERIA = {
    "entropy": "stpp.selftrain.scoring.certainty:entropy",
    "margin": "stpp.selftrain.scoring.certainty:margin",
}
"""Each function maps class probabilities (B, classes, H, W) to the certainty of every pixel (B, H, W).

The probabilities are those of f_K, the teacher's last checkpoint.
"""
