import json
import subprocess
import sys
from pathlib import Path

import trainer.lab

BASE = Path(trainer.lab.__file__).parent / "base"
SAMPLER = """
import sys
from trainer.lean import lean_transformers
lean_transformers()
from transformers import AutoModelForCausalLM, Qwen2ForCausalLM
print(sorted({"sklearn", "scipy.stats"} & set(sys.modules)))
"""
READER = """
import json, sys
from trainer import lean
if sys.argv[2] == "alone":
    lean.only_tokenizers()
from tasks.prompt_lengths import counter, question_tokens, tokenizer_of
from trainer.checkpoint import eos_ids, opens_thought
from pathlib import Path
base = Path(sys.argv[1])
tokenizer = tokenizer_of(base)
row = {"prompt": [{"role": "user", "content": "7 + 5 - 3 ="}]}
read = [counter(tokenizer, 1)(row), question_tokens(tokenizer, ["1 + 1", "12"])]
print(json.dumps([read, opens_thought(base), sorted(eos_ids(base)), "torch" in sys.modules]))
"""


def run(program: str, *arguments: str) -> str:
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_process_that_samples_imports_no_scikit_learn():
    assert run(SAMPLER) == "[]\n"


def test_a_process_that_makes_no_model_reads_tokenizers_as_any_other_and_without_torch():
    alone, usual = (json.loads(run(READER, str(BASE), how)) for how in ("alone", "usual"))
    assert alone[:-1] == usual[:-1]
    assert (alone[-1], usual[-1]) == (False, True)
