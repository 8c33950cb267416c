"""Opening the batch of what was converted at two fixed sizes: what differs follows the batch."""
