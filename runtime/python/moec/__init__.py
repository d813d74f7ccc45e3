"""moec compiles Mixture-of-Experts layers ahead of time. ``moec.binary`` finds and runs the compiler."""

__version__ = "0.1.0"
