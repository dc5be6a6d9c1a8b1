"""Training of the default weights: data, network, loss and schedule."""
