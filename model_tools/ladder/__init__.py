"""One change a rung: what each bought, and what it cost."""
