"""What can rank images by its name in `select.by`, each as MODULE:FUNCTION; whatever is in
`criteria.CRITERIA` ranks, too.

A table: it imports nothing, so that parameters are checked against it. What is added to it is allowed from then on.
"""

RANKINGS = {
    "stability": "stpp.selftrain.selection:by_stability",
    "random": "stpp.selftrain.selection:by_chance",
    "confidence": "stpp.selftrain.selection:by_confidence",
    "inverse": "stpp.selftrain.selection:by_instability",
    "oracle": "stpp.selftrain.selection:by_quality",
}
"""(known scores by name and id, seed) -> the score that ranks, by id; the highest first."""
