"""Enrichment: columns of names, places and sides, joined to rows by what they hold."""
