"""The table of annotation tools: the name for `--as` -> the function that writes a task for the tool.

The module imports nothing. An entry that is added here is a valid `--as` of `stpp suggest` and `stpp predict` at once.
"""

TASKS = {
    "coco": "stpp.deploy.tasks:coco",
    "cvat": "stpp.deploy.tasks:cvat",
    "label-studio": "stpp.deploy.tasks:label_studio",
    "labelme": "stpp.deploy.tasks:labelme",
}
"""Name -> MODULE:FUNCTION. The function takes the folder, `stpp.deploy.tasks.Labels` and the images of the task; it
writes the files of the tool and returns what to do with them."""
