"""What a fleet needs of Google Cloud, made from the values that its releases are installed with."""
