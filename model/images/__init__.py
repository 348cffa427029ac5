"""Images as callers send them: where they come from, what format they are in, and how they become upright RGB."""
