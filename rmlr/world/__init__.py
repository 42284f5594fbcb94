"""The drawn world: synthetic stick figures, their joints, and both data sets' annotation files of them."""
