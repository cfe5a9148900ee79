"""A trained model outside the pipeline: predicted with, exported, served."""
