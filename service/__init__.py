"""HTTP and the command line: the encoder app, the api app, settings, telemetry, the client."""
