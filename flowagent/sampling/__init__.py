"""Which rows are forwarded, with which probability, and what can be told from those."""
