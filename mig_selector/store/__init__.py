"""What lasts between runs: whole files or none, content hashes, fingerprints, cached vectors, manifests."""
