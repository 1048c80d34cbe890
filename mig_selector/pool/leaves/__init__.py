"""The values at the wanted paths of many rows, as arrays."""
