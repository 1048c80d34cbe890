"""The ranks of a run: who does what, how results are shared, and how a failure on one rank ends all of them."""
