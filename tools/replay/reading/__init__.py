"""What a journal holds, read and written; nothing is re-executed."""
