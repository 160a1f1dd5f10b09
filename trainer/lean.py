"""Import transformers without what it brings along and nobody here uses.

A stage starts six processes, an evaluation one, and each would spend a fifth of its start on it.
"""

import sys


def without_sklearn() -> None:
    """Let transformers take scikit-learn, which MLflow installs, for not installed.

    It imports it, with all of scipy.stats, for assisted decoding. Must be called before the first
    model class is asked for; later it changes nothing.
    """
    import transformers.utils
    from transformers.utils import import_utils

    if "sklearn" not in sys.modules:
        for module in (transformers.utils, import_utils):
            module.is_sklearn_available = lambda: False
