"""Start a run's stages on a cluster: what each task does, and the engines (datatrove's executors) that start tasks."""
