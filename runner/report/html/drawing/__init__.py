"""What a page draws: charts, signal to noise over depth, the graph around an operator."""
