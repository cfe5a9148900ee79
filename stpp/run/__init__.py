"""How a stage runs: once, resumed, in several processes, from which code."""
