"""Back up an installation into a folder and restore it, onto either store."""
