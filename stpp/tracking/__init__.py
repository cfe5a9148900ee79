"""MLflow tracking. A failure of MLflow never stops a stage; what MLflow misses is in the stage's files on disk."""
