"""Does a method help on this pool and this model? Arms trained on equal budgets, and their loss on held-out answers.

`run` is the whole of it, top to bottom; `heldout`, `arms`, `schedule`, `runs`, `statistics` and `figures` are its
steps. `plan` is what is fixed before the first training, `record` keeps it and what is added later.
"""
