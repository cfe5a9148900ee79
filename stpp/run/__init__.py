"""How a stage runs: once, resumed after a kill, in several processes, and with a record of its code and lineage."""
