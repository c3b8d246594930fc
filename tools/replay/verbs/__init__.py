"""One file per verb of `engine-replay`: `add_arguments(parser)` and `run(options) -> exit code`."""
