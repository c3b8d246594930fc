"""A captured run as a value: what clients asked, what came out, what each step took."""
