"""Speeding up a forward on a CPU: packed weights, threads, priorities, primitive caches."""
