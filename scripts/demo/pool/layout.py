"""The layout of the pools that the scripts make, which is that of the published pools."""

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
"""The content of their entries in ``dataset_info.json``, apart from ``file_name``."""
