"""The frame of every HTTP application of this project: middleware, probes, problems, responses."""
