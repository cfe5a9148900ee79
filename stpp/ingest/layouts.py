"""The table of data set layouts: the name in `data.kind` -> the function that describes the layout.

The module imports nothing, so the parameter models can check `data.kind` against the table. An entry that is added
here is a valid `data.kind` at once.
"""

LAYOUTS = {
    "toy": "stpp.ingest.known_layouts:toy_layout",
    "pascal": "stpp.ingest.known_layouts:pascal",
    "cityscapes": "stpp.ingest.known_layouts:cityscapes",
    "folder": "stpp.ingest.known_layouts:folder",
}
"""Name -> MODULE:FUNCTION. The function takes the section `data` and returns a `stpp.ingest.known_layouts.Layout`."""
