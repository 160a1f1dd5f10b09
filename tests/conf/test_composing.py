"""What tests take for Hydra's composition is that."""

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from conf.compose import compose
from tests.composing import composed

FILES = ["experiment@_global_=lab/fastcurl", "hardware=gpu1"]


@pytest.mark.parametrize(
    "lines",
    [
        FILES,
        [*FILES, "++seed=3", "++stages.1.steps=20", "++output='/data/R&D/it\\'s'"],
        [
            *FILES,
            "++stages.0.transition={policy:any,when:[{metric:truncated_share,below:1,window:2}]}",
        ],
        ["++data.train.columns={question:a,answer:b}", *FILES, "++method.advantage_settings.x=1.5"],
        [*FILES, "++evaluation.benchmarks=[{name:a,kind:file,path:b.jsonl}]", "++name=x"],
    ],
)
def test_it_is_what_hydra_composes(lines):
    for _ in range(2):
        fast, slow = composed("conf", "config", lines), compose("conf", "config", lines)
        assert OmegaConf.to_container(fast) == OmegaConf.to_container(slow)


def test_what_hydra_refuses_is_refused_in_its_words():
    said = set()
    for one in (composed, compose):
        with pytest.raises(HydraException) as refused:
            one("conf", "config", [*FILES, "++stages.9.steps=1"])
        said.add(str(refused.value))
    assert len(said) == 1
