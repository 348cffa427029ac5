"""The encoder role: batching around one model, and the routes that speak to it."""
