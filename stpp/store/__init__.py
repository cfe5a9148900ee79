"""Files on disk: atomic writes, id lists, manifests of images, mask sets and the JSON files of stages."""
