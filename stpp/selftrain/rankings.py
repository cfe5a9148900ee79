"""A registry of the rankings of images: name in `select.by` -> MODULE:FUNCTION.

`select.by` also accepts the names in `criteria.CRITERIA`. The table imports nothing, so that parameters can be checked
against it. A name that is added here becomes valid in params.yaml.
"""

RANKINGS = {
    "stability": "stpp.selftrain.selection:by_stability",
    "balanced": "stpp.selftrain.selection:by_balanced",
    "random": "stpp.selftrain.selection:by_random",
    "confidence": "stpp.selftrain.selection:by_confidence",
    "inverse": "stpp.selftrain.selection:by_inverse",
    "oracle": "stpp.selftrain.selection:by_oracle",
}
"""Each function maps (known scores by name and image id, seed) to a score by image id; the highest ranks first."""
