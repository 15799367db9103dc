"""From issues to changes of the labels."""
