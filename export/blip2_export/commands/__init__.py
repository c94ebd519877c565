"""The commands, one module each: arguments, help, and the call of what does the work."""
