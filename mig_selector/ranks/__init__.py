"""Which rank am I; do once and tell all; faults and deaths reach every rank."""
