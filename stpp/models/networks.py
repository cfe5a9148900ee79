"""A registry of the networks: name in `model.network` -> MODULE:CLASS.

The table imports nothing, so that parameters can be checked against it. A name that is added here becomes valid in
params.yaml.
"""

NETWORKS = {
    "deeplabv2": "stpp.models.deeplabv2:DeepLabV2",
    "deeplabv3plus": "stpp.models.deeplabv3plus:DeepLabV3Plus",
    "deeplabv3plus_separable": "stpp.models.deeplabv3plus:SeparableDeepLabV3Plus",
    "dpt": "stpp.models.dpt:DPT",
    "linear": "stpp.models.linear:Linear",
    "pspnet": "stpp.models.pspnet:PSPNet",
}
