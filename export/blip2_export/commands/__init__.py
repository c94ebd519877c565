"""The commands, one module each: arguments, help, and a call into the package."""
