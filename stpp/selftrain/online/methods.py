"""A registry of the ways to train without pseudo masks on disk: name in `online.method` -> MODULE:CLASS.

The table imports nothing, so that parameters can be checked against it. A name that is added here becomes valid in
params.yaml.
"""

METHODS = {
    "online": "stpp.selftrain.online.labelling:OnlineLabelling",
    "fixmatch": "stpp.selftrain.online.fixmatch:FixMatch",
    "unimatch": "stpp.selftrain.online.unimatch:UniMatch",
    "unimatch_v2": "stpp.selftrain.online.unimatch:UniMatchV2",
}
"""Each class makes a training step of (section `online`, loss on labelled images); see `labelling.Method`."""
