"""One module per command: its settings (a frozen dataclass), `run(settings)`, and `COMMANDS` for the parser."""
