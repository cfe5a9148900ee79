"""Own transforms by their name in `augment.strong.more`, each as MODULE:CLASS.

A table: it imports nothing. Transforms of albumentations itself need no entry.
"""

AUGMENTATIONS: dict[str, str] = {}
