"""Records out of files and bodies."""
