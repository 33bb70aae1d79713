"""`python -m model_tools` is `model-tools`."""

from model_tools.cli import main

main()
