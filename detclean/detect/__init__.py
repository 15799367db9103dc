"""What a detector says about images whose labels it never saw: folds, training and prediction per fold, and how good that is."""
