"""Programs that are measured: started, heard, watched and ended."""
