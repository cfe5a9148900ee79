"""The parameters of a run: their pydantic models, and the files that hold them."""
