"""Compression methods: pure tensor functions, independent of models and files.

To add a method: add a file here, a line below, and its name in specs.MethodName.
"""

from lsprism.methods.base import Method
from lsprism.methods.hybrid import Hybrid
from lsprism.methods.magnitude import Magnitude
from lsprism.methods.oats import OATS
from lsprism.methods.sparsegpt import SparseGPT
from lsprism.methods.svd import SVD
from lsprism.methods.svd_plain import PlainSVD
from lsprism.methods.wanda import Wanda
from lsprism.specs import EffortName

METHODS: dict[str, Method] = {
    method.name: method for method in (Hybrid(), OATS(), SparseGPT(), Wanda(), Magnitude(), SVD(), PlainSVD())
}
BEST: dict[str, Method] = {"hybrid": Hybrid(best=True)}


def get_method(name: str, effort: EffortName) -> Method:
    return BEST[name] if effort == "best" else METHODS[name]
