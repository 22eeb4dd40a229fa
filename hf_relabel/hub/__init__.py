"""Publishing on the Hugging Face Hub: client, checks, card, changelog, versions."""
