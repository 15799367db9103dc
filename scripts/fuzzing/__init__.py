"""What scripts/fuzz.py is made of: damage, the inputs that it is done to, what is done with each, and the processes that do it."""
