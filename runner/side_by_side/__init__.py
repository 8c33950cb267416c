"""One model through several toolchains: a run each, on one reference, and a comparison of all."""
