import subprocess
import sys

SAMPLER = """
import sys
from trainer.lean import without_sklearn
without_sklearn()
from transformers import AutoModelForCausalLM, Qwen2ForCausalLM
print(sorted({"sklearn", "scipy.stats"} & set(sys.modules)))
"""


def test_a_process_that_samples_imports_no_scikit_learn():
    done = subprocess.run([sys.executable, "-c", SAMPLER], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
