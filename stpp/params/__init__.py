"""The parameters of a run: their models, and the files that hold them."""
