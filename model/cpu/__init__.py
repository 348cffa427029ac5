"""What makes a forward fast on a CPU: packed weights, threads, priorities, primitive caches."""
