"""One module per verb of `engine-bench`."""
