"""Label texts in, vectors out: from an encoder on every rank, or from a file made elsewhere."""
