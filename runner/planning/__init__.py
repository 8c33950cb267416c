"""What a run shall do: its source, its inputs, its checks, all settled before anything starts."""
