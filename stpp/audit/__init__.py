"""The audit of a model: evidence of the data, code and parameters that it was made from."""
