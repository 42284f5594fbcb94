"""Sources of real data and weights: found, downloaded, checked, unpacked."""
