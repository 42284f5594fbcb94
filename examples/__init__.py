"""Examples of what a user adds without changing the package."""
