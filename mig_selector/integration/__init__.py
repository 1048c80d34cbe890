"""LLaMA-Factory's data: its configuration, its dataset_info.json, and when it would read other rows."""
