"""What lasts between runs: atomically written files, content hashes, fingerprints, cached vectors, manifests."""
