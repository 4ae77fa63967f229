"""The command's own verbs, one file per noun; `tcaq_client.cli` puts them together."""
