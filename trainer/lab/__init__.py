"""The lab: a reasoning task small enough for a laptop, and the base model that starts on it."""

from pathlib import Path

BASE = Path(__file__).parent / "base"
"""Folder of the shipped base model, in Hugging Face format; `base.json` says how it was made."""
