"""The engines that run stages: both install the same locks and produce the same bytes."""
