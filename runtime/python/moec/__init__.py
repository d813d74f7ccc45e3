"""moec compiles Mixture-of-Experts layers ahead of time.

``moec.patch(model)`` swaps the MoE blocks of a transformers model for compiled layers; ``moec.torch`` has a library's layer in PyTorch,
``moec.library`` by ctypes alone, and ``moec.binary`` finds and runs the compiler.
"""

from typing import Any, List

__version__ = "0.1.0"


def patch(model: Any, **given: Any) -> List[str]:
    """``moec.transformers.patch``: swaps every MoE block of a model, and gives the names of the blocks. It needs PyTorch."""
    from .transformers import patch as swap

    return swap(model, **given)
