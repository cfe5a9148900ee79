"""A registry of the project's own augmentations: name in `augment.strong.more` -> MODULE:CLASS.

The table imports nothing. The transforms of albumentations need no entry.
"""

AUGMENTATIONS: dict[str, str] = {}
