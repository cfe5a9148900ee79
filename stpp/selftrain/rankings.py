"""A registry of the rankings of images: name in `select.by` -> MODULE:FUNCTION.

`select.by` also accepts the names in `criteria.CRITERIA`. The table imports nothing, so that parameters can be checked
against it. A name that is added here becomes valid in params.yaml.
"""

RANKINGS = {
    "stability": "stpp.selftrain.selection:by_stability",
    "random": "stpp.selftrain.selection:by_chance",
    "confidence": "stpp.selftrain.selection:by_confidence",
    "inverse": "stpp.selftrain.selection:by_instability",
    "oracle": "stpp.selftrain.selection:by_quality",
}
"""Each function maps (known scores by name and image id, seed) to a score by image id; the highest ranks first."""
