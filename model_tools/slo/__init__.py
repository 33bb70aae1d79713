"""A release's service level objectives: what it promises, what was measured, and the verdict."""
