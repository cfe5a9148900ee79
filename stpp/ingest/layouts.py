"""The table of data set layouts: the name in `data.kind` -> the function that describes the layout.

The module imports nothing, so the parameter models can check `data.kind` against the table. An entry that is added
here is a valid `data.kind` at once.
"""

LAYOUTS = {
    "toy": "stpp.ingest.catalog:toy_layout",
    "pascal": "stpp.ingest.catalog:pascal",
    "cityscapes": "stpp.ingest.catalog:cityscapes",
    "folder": "stpp.ingest.catalog:folder",
}
"""Name -> MODULE:FUNCTION. The function takes the section `data` and returns a `stpp.ingest.catalog.Layout`."""
