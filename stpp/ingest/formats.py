"""The table of annotation formats: the name in `data.annotations.format` -> the function that reads such a file.

The module imports nothing, so the parameter models can check the name against the table. An entry that is added here is
a valid `data.annotations.format` at once.
"""

FORMATS = {
    "coco": "stpp.ingest.annotation_files:coco",
    "cvat": "stpp.ingest.annotation_files:cvat",
    "label-studio": "stpp.ingest.annotation_files:label_studio",
    "labelme": "stpp.ingest.annotation_files:labelme",
    "via": "stpp.ingest.annotation_files:via",
    "yolo": "stpp.ingest.annotation_files:yolo",
}
"""Name -> MODULE:FUNCTION. The function takes a file's path and yields `stpp.ingest.shapes.Found`."""
