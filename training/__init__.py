"""What makes the shipped weights: the worlds that are rendered, and the trainers."""
