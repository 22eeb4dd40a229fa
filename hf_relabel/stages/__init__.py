"""The stages, in the order data flows through them: propose, score, train, label, build. One file each."""
