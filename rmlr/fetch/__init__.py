"""Sources of real data and weights: located, downloaded, verified, unpacked."""
