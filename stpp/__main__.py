"""`python -m stpp`: in a pipeline, so that the code beside dvc.yaml is what runs."""

from stpp.cli import main

main()
