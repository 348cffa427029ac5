"""What measures speed: `make bench`. Each section is a module with a `measure` of its own; `python -m benchmarks a c` runs two of them."""
