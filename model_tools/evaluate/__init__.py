"""What a model's accuracy is, what quantizing it cost, and the verdict that goes with it."""
