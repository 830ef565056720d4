"""Recent history in memory: weighted samples of the windows, and the answers to questions about them."""
