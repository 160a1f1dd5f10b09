"""The lab: a synthetic reasoning task and a tiny base model on which RL learns in minutes."""
