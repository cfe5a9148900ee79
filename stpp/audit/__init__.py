"""What proves where a model comes from."""
