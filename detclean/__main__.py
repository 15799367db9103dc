"""`python -m detclean`."""

from detclean.cli import main

if __name__ == "__main__":  # workers started by multiprocessing import this file too
    main()
