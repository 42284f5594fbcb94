"""The networks. Read: detector, text, pairs, remine, align, reason, losses, network."""
