"""The networks by their name in `model.network`, each as MODULE:CLASS.

A table: it imports nothing, so that parameters are checked against it. What is added to it is allowed from then on.
"""

NETWORKS = {
    "deeplabv2": "stpp.models.deeplabv2:DeepLabV2",
    "deeplabv3plus": "stpp.models.deeplabv3plus:DeepLabV3Plus",
    "pspnet": "stpp.models.pspnet:PSPNet",
}
