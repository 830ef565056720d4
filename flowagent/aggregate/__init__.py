"""Analysis over all records, and aggregation by key."""
