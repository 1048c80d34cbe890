"""``python -m mig_selector``: the command line, in the form that torchrun starts on every rank."""

from mig_selector.cli import main


if __name__ == "__main__":
    raise SystemExit(main())
