"""A registry of the optimisers: name in `train.optimizer` -> MODULE:FUNCTION.

The table imports nothing, so that parameters can be checked against it. A name that is added here becomes valid in
params.yaml.
"""

OPTIMIZERS = {
    "sgd": "stpp.engine.optim:sgd",
    "adamw": "stpp.engine.optim:adamw",
}
"""Each function maps (parameter groups with their learning rates, the section `train`) to an optimiser of torch."""
