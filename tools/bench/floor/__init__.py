"""What the machine would allow: the floor that `engine-bench overhead` computes."""
