"""Code that the stages of every year share: the contract, samples, statistics, tracing."""
