"""MLflow, or silence: tracking never stops a stage, and what it could not say is on disk all the same."""
