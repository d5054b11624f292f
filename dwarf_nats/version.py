"""The version of the package, in a module of its own so that no module of the package imports the package's public names."""

__version__ = "0.1.0"
