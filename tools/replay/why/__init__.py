"""One request's life, and where its time went."""
