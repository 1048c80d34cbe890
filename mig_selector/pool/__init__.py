"""Reading pools and writing subsets: a dataset entry in, labels, scores and where each row stands out."""
