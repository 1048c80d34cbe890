"""The label graph: which labels are used, which are similar, and how information spreads among them."""
