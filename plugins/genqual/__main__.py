"""`python -m genqual` is the `genqual` command: for where the environment's `bin` is not on PATH."""

from genqual.cli import main

if __name__ == "__main__":
    main()
