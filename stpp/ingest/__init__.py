"""Data ingestion: turn the user's image and mask files into a data manifest and a split."""
