"""No calls home: the variables that keep each tool we use from talking to the outside."""

import os

OFF = {
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "WANDB_MODE": "disabled",
    "WANDB_ERROR_REPORTING": "false",
}


def switch_off() -> None:
    """Set every variable of `OFF`, before the tools are imported. Overrides what was set before."""
    os.environ.update(OFF)
