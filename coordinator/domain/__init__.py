"""What a run is and how it moves: values and pure functions, without I/O, clock or logging."""
