"""Everything that knows LLaMA-Factory (the host): its configuration, dataset_info.json, outputs and version."""
