"""The pydantic models of the HTTP API, one module for each resource."""
