"""How the pools that these scripts make are laid out: as the published ones."""

LAYOUT = {
    "formatting": "sharegpt",
    "columns": {"messages": "dialogs"},
    "tags": {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "system_tag": "system",
    },
}
"""What their entries in ``dataset_info.json`` hold beside the file's name."""
