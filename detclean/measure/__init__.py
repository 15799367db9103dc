"""How well wrong labels are found: figures, the truth of planted errors, what existing tools find, and the table of all of it."""
