"""Sources (where datagrams come from) and decoders (what they say)."""
