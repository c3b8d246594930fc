"""What was measured: figures, the result file, text, plot, comparison."""
