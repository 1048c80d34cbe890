"""The label graph: which labels count, which are alike, and how information spreads among them."""
