"""`python -m molflowctl`, the same as the console script."""

from molflowctl.cli import main

if __name__ == "__main__":
    main()
