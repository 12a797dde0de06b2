"""A conversation with a served model: its thinking is dimmed and folds away in a terminal, and only answers leave through a pipe."""
