"""What every HTTP application of this project has: middleware, probes, problems, responses."""
