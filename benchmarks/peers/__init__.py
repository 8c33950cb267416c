"""The parts of benchmarks/peers.py. Scripts in the folders run in environments of their own."""
