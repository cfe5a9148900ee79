"""Deployment of a trained model outside the pipeline: prediction, export and serving."""
