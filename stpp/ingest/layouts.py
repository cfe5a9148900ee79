"""The layouts of data sets by their name in `data.kind`, each as MODULE:FUNCTION.

A table: it imports nothing, so that parameters are checked against it. What is added to it is allowed from then on.
"""

LAYOUTS = {
    "toy": "stpp.ingest.catalog:toy_layout",
    "pascal": "stpp.ingest.catalog:pascal",
    "cityscapes": "stpp.ingest.catalog:cityscapes",
    "folder": "stpp.ingest.catalog:folder",
}
"""The section `data` -> which images there are, and what their masks mean."""
