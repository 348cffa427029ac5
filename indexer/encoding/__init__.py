"""Encoders as the index sees them: the protocol, the registry by fingerprint, and the client of a remote encoder."""
